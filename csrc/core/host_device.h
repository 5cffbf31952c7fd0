// FASTLOG_HD marks what host and device share; under a plain C++ compiler it means nothing.
#pragma once

#if defined(__CUDACC__)
#define FASTLOG_HD __host__ __device__
#else
#define FASTLOG_HD
#endif
