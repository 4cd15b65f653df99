// Names of ICMP types as packet texts have them.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace penstock::path {

[[nodiscard]] const std::map<std::string, std::uint8_t>& icmp_types(bool v6);

}  // namespace penstock::path
