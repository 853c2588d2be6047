// What the gradient of a row's logits is divided by, before it is times LARGEST, as f16.
//
// The includer has the operands spread and peak.

const float LARGEST = 8192;

float gradient_scale(uint row) {
  return max(max(abs(spread[row]), abs(peak[row])), 1e-30);
}
