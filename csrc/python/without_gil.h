// Letting go of the GIL while C++ works.
#pragma once

#include <Python.h>

#include <chrono>
#include <thread>

namespace fastlog::python {

// Without the GIL from construction to destruction.
//
// pybind11's gil_scoped_release aborts the process where the interpreter has exited meanwhile, as it may under a
// daemon thread: Python before 3.14 ends such a thread by unwinding it, and destructors must not be unwound. Here the
// thread sleeps until the process ends, as it does in Python 3.14.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

 private:
  PyThreadState* state_;
};

}  // namespace fastlog::python
