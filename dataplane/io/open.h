// Everything of packet I/O that the engine needs, opened from the configuration in the right order.
#pragma once

#include <memory>
#include <variant>

#include "dataplane/io/eal.h"
#include "dataplane/runtime/config.h"
#include "dataplane/runtime/engine.h"

namespace penstock::io {

// Opens pool, ports and the exception TAP, and fills the MAC addresses into `config.path`.
[[nodiscard]] std::variant<runtime::Engine::Parts, runtime::ConfigError> open_parts(runtime::Config& config, Eal& eal);

}  // namespace penstock::io
