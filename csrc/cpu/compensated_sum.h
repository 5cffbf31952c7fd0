// A sum that does not depend on how large it has become.
#pragma once

#include <cmath>

namespace fastlog::cpu {

// Adds in the order of the calls and carries the rounding errors along (Neumaier 1974, ZAMM 54).
class CompensatedSum {
 public:
  void add(double x) {
    const double total = total_ + x;
    lost_ += std::fabs(total_) >= std::fabs(x) ? (total_ - total) + x : (x - total) + total_;
    total_ = total;
  }
  double value() const { return std::isfinite(total_) ? total_ + lost_ : total_; }

 private:
  double total_ = 0;
  double lost_ = 0;
};

}  // namespace fastlog::cpu
