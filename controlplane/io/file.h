// Small files that must survive crashes: read whole, replace atomically.
//
// Errors are values: the operating system's words. Any thread.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

namespace penstock::io {

// nullopt and `error` set when it cannot be read (`missing` tells whether it just is not there). At most 64 MiB.
[[nodiscard]] std::optional<std::string> read_file(const std::string& path, std::string& error,
                                                   bool* missing = nullptr);

// Writes a temporary file beside, syncs it and renames it over `path`: readers see the old or the new content, also
// after a power failure.
[[nodiscard]] bool replace_file(const std::string& path, std::string_view content, mode_t mode, std::string& error);

// Writes into the existing file (or makes it): for files that cannot be renamed over, such as bind mounts.
[[nodiscard]] bool overwrite_file(const std::string& path, std::string_view content, mode_t mode, std::string& error);

// The directory and its parents, those made with mode 0700.
[[nodiscard]] bool make_directory(const std::string& path, std::string& error);

}  // namespace penstock::io
