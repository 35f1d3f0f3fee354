// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace feedsr {

// Whether this processor multiplies without carry, which is what makes crc32 fast.
bool crc32_usable();

// The CRC-32 of zlib, continued from `value`; call it only where crc32_usable().
std::uint32_t crc32(const std::uint8_t* data, std::size_t size, std::uint32_t value);

}  // namespace feedsr
