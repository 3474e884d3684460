// The standard library's part, always compiled for the plainest processor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
