// The `static:` section: peers, authorisations and translations that need no control process.
#pragma once

#include "dataplane/gateway/configuration.h"
#include "dataplane/runtime/config.h"
#include "dataplane/runtime/yaml_reader.h"

namespace penstock::runtime {

// Fills static_operations and static_keys; reads the preshared key files it names. Throws YamlFailure.
void read_static(const YamlValue& section, Config& config);

// Applies the operations to a store that leads nowhere, so that every error is found before anything starts. Throws
// YamlFailure.
void check_static(const gateway::Configuration& path, const Config& config);

// The addresses that are the gateway's own and so no peer's.
[[nodiscard]] std::vector<IpAddress> own_addresses(const gateway::Configuration& path);

}  // namespace penstock::runtime
