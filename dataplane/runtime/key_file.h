// Keys in files: base64 of 32 bytes and a newline, mode 0600.
//
// Start-up only. A file that its group or others may read is refused: the key must be taken as known. Errors name the
// file and the reason, never any of its content.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "dataplane/runtime/policy_spec.h"

namespace penstock::runtime {

struct KeyFileError {
  std::string reason;
};

// Exactly 44 characters of standard base64; nullopt when malformed.
[[nodiscard]] std::optional<KeyBytes> parse_key(std::string_view base64);
[[nodiscard]] std::string format_key(const KeyBytes& key);

[[nodiscard]] std::variant<KeyBytes, KeyFileError> read_key_file(const std::string& path);

// Reads the file, or makes it (and its directory, mode 0700) with a new random X25519 private key when it does not
// exist.
[[nodiscard]] std::variant<KeyBytes, KeyFileError> read_or_create_private_key(const std::string& path);

}  // namespace penstock::runtime
