"""The watch over the engine."""

import threading


def test_a_stuck_engine_turns_readyz_to_503_and_is_logged_with_its_stack_until_it_goes_on(caplog):
    from types import SimpleNamespace

    from dia2stream.options import ModelOptions, ServeOptions, SpeechOptions
    from dia2stream.server.server import Server
    from dia2stream.server.watch import STUCK_SECONDS

    def readyz():
        problem = server.unready()
        return (200, "ok\n") if problem is None else (503, f"{problem}\n")

    server, go_on = Server(ModelOptions(), SpeechOptions(), ServeOptions()), threading.Event()
    server.stage, watch = None, server.watch
    thread = threading.Thread(target=go_on.wait, name="dia2-engine")
    thread.start()
    watch.look(0)
    engine = watch.engine = SimpleNamespace(has_work=False, stats=SimpleNamespace(last_progress=5.0))
    watch.look(1000)  # idle for long, then work comes
    engine.has_work = True
    watch.look(1001)
    assert readyz() == (200, "ok\n")
    watch.look(1001 + STUCK_SECONDS + 1)
    assert readyz() == (503, "no step has finished for 32 s, and there is work\n")
    [logged] = caplog.records
    assert "no step has finished" in logged.message
    assert "in wait" in logged.stack
    engine.stats.last_progress = 6.0
    watch.look(1001 + STUCK_SECONDS + 2)
    assert readyz() == (200, "ok\n")
    go_on.set()
    thread.join()
