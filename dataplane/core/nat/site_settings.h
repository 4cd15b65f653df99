// What of the translation may differ from site to site and change while packets flow. Set by whoever configures the
// process, read by every worker's translator once per burst.
//
// A change concerns new flows: live ones keep the source and the port they have. (With several workers a change of
// `keep_source` also changes which worker a client's packets belong to, and live flows of clients that are at home
// elsewhere do not survive it.)
//
// One writer, any number of readers.
#pragma once

#include <atomic>
#include <cstdint>

#include "dataplane/core/nat/config.h"

namespace penstock::nat {

struct SiteSettings {
  bool keep_source = false;  // as in TranslatorConfig, all three
  Mapping mapping = Mapping::address_and_port_dependent;
  Filtering filtering = Filtering::address_and_port_dependent;

  bool operator==(const SiteSettings&) const = default;
};

class SharedSiteSettings {
 public:
  using Word = std::uint32_t;

  void set(const SiteSettings& settings) {
    Word word = static_cast<Word>(settings.mapping) << 8 | static_cast<Word>(settings.filtering) << 16;
    if (settings.keep_source) word |= kKeepSource | kKeptSources;
    word |= word_.load(std::memory_order_relaxed) & kKeptSources;
    word_.store(word, std::memory_order_relaxed);
  }

  // All of it, to be compared with what was read before.
  [[nodiscard]] Word word() const { return word_.load(std::memory_order_relaxed); }
  [[nodiscard]] static SiteSettings of(Word word) {
    return {(word & kKeepSource) != 0, static_cast<Mapping>(word >> 8 & 0xff), static_cast<Filtering>(word >> 16 & 0xff)};
  }
  // Clients appear as they are, or did once: there may be flows that do.
  [[nodiscard]] static bool kept_sources(Word word) { return (word & kKeptSources) != 0; }
  [[nodiscard]] bool kept_sources() const { return kept_sources(word()); }

 private:
  static constexpr Word kKeepSource = 1;
  static constexpr Word kKeptSources = 2;
  std::atomic<Word> word_{0};
};

}  // namespace penstock::nat
