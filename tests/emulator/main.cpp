#include "cuda_on_cpu.h"
#include "persistent.cu"

#ifdef COLUMN
#define KERNEL column
#else
#define KERNEL codes
#endif
extern "C" void run(const unsigned long long* table) { run_grid(KERNEL, GRID, WARPS + 1, SHARED_BYTES, table); }
