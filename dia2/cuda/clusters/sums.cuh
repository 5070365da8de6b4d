// What products have in common: where a lane finds its input, and the sums over the warps of what each left.
#pragma once
#include "exchange.cuh"

// The address of a lane's 16 bytes of a product's input, the first of 32 inputs: of both rows, over and over.
DEVICE u32 input_address(const Self& me, int where, int pitch, int first = 0) {
  return me.base + where + ((me.lane / 4 % 2) * pitch + first + (me.lane % 4) * 8) * 2;
}

DEVICE float2 operator+(const float2& a, const float2& b) { return make_float2(a.x + b.x, a.y + b.y); }

// The sum over all warps at one place of [2][OUTPUTS].
template <int OUTPUTS, typename Values>
DEVICE Values partial_sum(const char* memory, int area, int row, int output) {
  const float* from = (const float*)(memory + place::PARTIAL + area * place::PARTIAL_AREA) + row * OUTPUTS + output;
  Values sum = *(const Values*)from;
#pragma unroll
  for (int warp = 1; warp < WARPS; warp++) sum = sum + *(const Values*)(from + warp * ROWS * OUTPUTS);
  return sum;
}
