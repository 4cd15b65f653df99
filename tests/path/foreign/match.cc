#include "tests/path/foreign/match.h"

#include <algorithm>
#include <utility>

namespace penstock::path {
namespace {

using Kind = Expectation::Kind;

// What a failed expectation costs when both lists are aligned. An unrelated pair is a little cheaper than one packet
// too many and one too few: the difference says more.
enum Cost : unsigned { kNone = 0, kSimilar = 10, kSkip = 20, kNotDropped = 30, kUnrelated = 39, kNever = 1U << 30 };
constexpr std::size_t kMostPairs = 60000;  // beyond, no alignment: a comparison each

std::vector<Event> events_of(const std::vector<Exchange>& exchanges) {
  std::vector<Event> out;
  for (const Exchange& exchange : exchanges) {
    bool forwarded = false;
    for (const ForeignOutput& output : exchange.result.outputs) {
      out.push_back({&exchange, &output});
      forwarded = forwarded || !output.answer;
    }
    if (!forwarded && !exchange.waited) out.push_back({&exchange, nullptr});
  }
  return out;
}

// Family, addresses, protocol and ports: whether two packets are likely the same one in two versions.
std::string shape_of(const Octets& packet) {
  std::string out;
  for (const Field& field : dissect(packet)) {
    if (field.inner) break;
    if (field.name == "source" || field.name == "destination" || field.name == "protocol" ||
        field.name == "source-port" || field.name == "destination-port")
      out += field.layer + field.value + " ";
  }
  return out;
}

class Matcher {
 public:
  Matcher(const std::vector<Exchange>& exchanges, std::vector<Expectation> expectations, const MatchOptions& options)
      : options_{options}, events_{events_of(exchanges)}, expectations_{std::move(expectations)} {}

  std::string report;
  bool good = true;

  void run() {
    if (options_.any_order) reorder();
    if (!all_as_expected()) align();
    tell();
  }

 private:
  // The expectation for each event; kNobody: none.
  static constexpr std::size_t kNobody = ~std::size_t{0};

  [[nodiscard]] Comparison compare(const Expectation& expectation, const Event& event) const {
    return compare_foreign(expectation.packet.bytes, *event.output, options_.ignored, event.of->sent.bytes);
  }

  [[nodiscard]] bool equal(const Expectation& expectation, const Event& event) const {
    return compare(expectation, event).differences.empty();
  }

  // What needs no expectation: a packet that was dropped, and words about it to its sender, which RFC 7915 §4.4 and
  // §5.4 leave to the operator. Only `silence` forbids them.
  [[nodiscard]] static bool may_be_skipped(const Event& event) {
    return event.output == nullptr || event.output->answer;
  }

  // Where the packet that may be dropped next ends: behind the answers to its sender.
  [[nodiscard]] std::size_t dropped_at(std::size_t at) const {
    std::size_t end = at;
    while (end < events_.size() && events_[end].output != nullptr && events_[end].output->answer &&
           events_[end].of == events_[at].of)
      ++end;
    return end < events_.size() && events_[end].output == nullptr && events_[end].of == events_[at].of ? end : kNobody;
  }

  // Gives expected packets the order in which equal ones came out; the others follow.
  void reorder() {
    std::vector<Expectation> packets;
    for (const Expectation& expectation : expectations_)
      if (expectation.kind == Kind::packet) packets.push_back(expectation);
    std::size_t sorted = 0;
    for (const Event& event : events_) {
      if (event.output == nullptr) continue;
      for (std::size_t i = sorted; i < packets.size(); ++i) {
        if (!equal(packets[i], event)) continue;
        std::rotate(packets.begin() + static_cast<std::ptrdiff_t>(sorted),
                    packets.begin() + static_cast<std::ptrdiff_t>(i),
                    packets.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        ++sorted;
        break;
      }
    }
    std::size_t next = 0;
    for (Expectation& expectation : expectations_)
      if (expectation.kind == Kind::packet) expectation = packets[next++];
  }

  // In order, without trying alternatives. Fills `partner_` when all is well.
  bool all_as_expected() {
    partner_.assign(events_.size(), kNobody);
    std::size_t at = 0;
    for (std::size_t i = 0; i < expectations_.size(); ++i) {
      if (expectations_[i].kind == Kind::packet) {
        while (at < events_.size() && (events_[at].output == nullptr ||
                                       (events_[at].output->answer && !equal(expectations_[i], events_[at]))))
          ++at;
        if (at == events_.size() || !equal(expectations_[i], events_[at])) return false;
        partner_[at++] = i;
      } else {
        const std::size_t end = at < events_.size() ? dropped_at(at) : kNobody;
        if (end == kNobody || (expectations_[i].kind == Kind::silence && end != at)) return false;
        for (; at <= end; ++at) partner_[at] = i;
      }
    }
    return std::all_of(events_.begin() + static_cast<std::ptrdiff_t>(at), events_.end(),
                       [](const Event& event) { return may_be_skipped(event); });
  }

  [[nodiscard]] unsigned cost_of_pair(std::size_t i, std::size_t j) const {
    const Event& event = events_[j];
    if (event.output == nullptr) return kNever;
    if (expectations_[i].kind != Kind::packet) return event.output->answer ? unsigned{kNever} : kNotDropped;
    const bool same = wanted_shape_[i] == shape_[j];
    if (!same && wanted_shape_[i].substr(0, 3) != shape_[j].substr(0, 3)) return kUnrelated;
    if (equal(expectations_[i], event)) return kNone;
    return same ? unsigned{kSimilar} : 2 * kSimilar;
  }

  // The cheapest alignment, by dynamic programming from the end.
  void align() {
    const std::size_t n = expectations_.size();
    const std::size_t m = events_.size();
    partner_.assign(m, kNobody);
    if (n * m > kMostPairs) return pair_off();
    for (const Expectation& expectation : expectations_) wanted_shape_.push_back(shape_of(expectation.packet.bytes));
    for (const Event& event : events_)
      shape_.push_back(event.output == nullptr ? std::string{} : shape_of(event.output->bytes));
    enum Step : std::uint8_t { stop, pair, drop, skip_event, skip_expectation };
    std::vector<std::vector<unsigned>> cost(n + 1, std::vector<unsigned>(m + 1, 0));
    std::vector<std::vector<Step>> step(n + 1, std::vector<Step>(m + 1, stop));
    for (std::size_t i = n + 1; i-- > 0;) {
      for (std::size_t j = m + 1; j-- > 0;) {
        if (i == n && j == m) continue;
        unsigned best = kNever;
        const auto take = [&](unsigned price, Step how) {
          if (price >= best) return;
          best = price;
          step[i][j] = how;
        };
        if (i < n && j < m) {
          take(cost_of_pair(i, j) + cost[i + 1][j + 1], pair);
          if (expectations_[i].kind != Kind::packet)
            if (const std::size_t end = dropped_at(j); end != kNobody) {
              const bool told = end != j || (j > 0 && events_[j - 1].of == events_[j].of);
              take(cost[i + 1][end + 1] + (expectations_[i].kind == Kind::silence && told ? kSimilar : kNone), drop);
            }
        }
        if (j < m) take(cost[i][j + 1] + (may_be_skipped(events_[j]) ? kNone : kSkip), skip_event);
        if (i < n) take(cost[i + 1][j] + kSkip, skip_expectation);
        cost[i][j] = best;
      }
    }
    std::size_t i = 0;
    for (std::size_t j = 0; i < n || j < m;) {
      switch (step[i][j]) {
        case pair:
          partner_[j++] = i++;
          break;
        case drop:
          for (const std::size_t end = dropped_at(j); j <= end; ++j) partner_[j] = i;
          ++i;
          break;
        case skip_event:
          ++j;
          break;
        default:
          ++i;
      }
    }
  }

  void pair_off() {
    std::size_t i = 0;
    for (std::size_t j = 0; j < events_.size() && i < expectations_.size(); ++j)
      if (events_[j].output != nullptr) partner_[j] = i++;
  }

  void tell() {
    std::size_t next = 0;
    for (std::size_t j = 0; j < events_.size(); ++j) {
      const std::size_t i = partner_[j];
      if (i == kNobody) {
        unexpected(events_[j]);
        continue;
      }
      for (; next < i; ++next) missing(expectations_[next]);
      next = i + 1;
      if (expectations_[i].kind == Kind::packet) {
        packet(expectations_[i], events_[j]);
      } else {
        const std::size_t first = j;
        while (j + 1 < events_.size() && partner_[j + 1] == i) ++j;
        dropped(expectations_[i], first, j);
      }
    }
    for (; next < expectations_.size(); ++next) missing(expectations_[next]);
  }

  void packet(const Expectation& expectation, const Event& event) {
    const Comparison compared = compare(expectation, event);
    const std::string& name = expectation.packet.name;
    drops_.clear();
    if (compared.differences.empty()) {
      report += "as expected: " + name + " (" + summary_of(event.output->bytes) + ")\n" + compared.notes;
      return;
    }
    fail(event.of->sent.name + " does not give " + name);
    report += "    expected " + summary_of(expectation.packet.bytes) + "\n    got      " +
              summary_of(event.output->bytes) + (event.output->answer ? ", an answer to the sender" : "") + "\n" +
              compared.differences + compared.notes;
    if (event.output->answer) report += drop_lines(*event.of);
    const bool cut = compared.differences.find(" length:") != std::string::npos ||
                     compared.differences.find("fragment") != std::string::npos ||
                     compared.differences.find("payload") != std::string::npos;
    report += choices(event.of->sent.bytes, &expectation.packet.bytes, cut);
  }

  void dropped(const Expectation& expectation, std::size_t first, std::size_t last) {
    const Event& event = events_[last];
    if (event.output != nullptr) {
      fail("expected " + event.of->sent.name + " to be dropped, but it gives " + summary_of(event.output->bytes));
      report += output_lines(event) + choices(event.of->sent.bytes, nullptr, false);
      return;
    }
    std::string answers;
    for (std::size_t j = first; j < last; ++j)
      answers += "    its sender is told: " + summary_of(events_[j].output->bytes) + "\n";
    if (expectation.kind == Kind::silence && !answers.empty()) {
      fail("expected " + event.of->sent.name + " to be dropped in silence");
      report += answers + "        RFC 7915 §4.4, §5.4: the sender of a discarded packet SHOULD be told\n" +
                drop_lines(*event.of);
      return;
    }
    report += "dropped, as expected: " + event.of->sent.name + "\n" + drop_lines(*event.of) + answers;
  }

  void unexpected(const Event& event) {
    if (event.output == nullptr) {
      if (options_.nothing) report += "dropped, as expected: " + event.of->sent.name + "\n" + drop_lines(*event.of);
      remember_drop(*event.of);
      last_dropped_ = &event.of->sent.bytes;
      return;
    }
    if (event.output->answer) {
      report += "    the sender of " + event.of->sent.name + " is told: " + summary_of(event.output->bytes) + "\n";
      return;
    }
    fail(event.of->sent.name + " also gives " + summary_of(event.output->bytes) + ", which was not expected");
    report += output_lines(event) + choices(event.of->sent.bytes, nullptr, true);
  }

  void missing(const Expectation& expectation) {
    if (expectation.kind != Kind::packet) return fail("expected a packet to be dropped, but none was left");
    fail("expected " + expectation.packet.name + " (" + summary_of(expectation.packet.bytes) +
         "), but nothing came out");
    // What was dropped where it should have come from; the last ones said again when there are none since.
    if (!drops_.empty()) last_drops_ = std::exchange(drops_, {});
    if (last_drops_.empty()) report += "        RFC 7915 §4, §5: one packet gives one, or its fragments\n";
    for (const auto& [why, who] : last_drops_)
      report += "    " + who.first + (who.second.empty() || who.second == who.first ? "" : " to " + who.second) + why;
    if (last_dropped_ != nullptr || !events_.empty())
      report += choices(last_dropped_ != nullptr ? *last_dropped_ : events_.back().of->sent.bytes,
                        &expectation.packet.bytes, true);
  }

  // Of neighbours that share a reason the first and the last are named.
  void remember_drop(const Exchange& exchange) {
    const std::string why = why_dropped(exchange);
    if (drops_.empty() || drops_.back().first != why) drops_.push_back({why, {exchange.sent.name, {}}});
    drops_.back().second.second = exchange.sent.name;
  }

  void fail(const std::string& why) {
    good = false;
    report += "MISMATCH: " + why + "\n";
  }

  const MatchOptions& options_;
  std::vector<Event> events_;
  std::vector<Expectation> expectations_;
  std::vector<std::string> wanted_shape_, shape_;
  std::vector<std::size_t> partner_;
  std::vector<std::pair<std::string, std::pair<std::string, std::string>>> drops_, last_drops_;
  const Octets* last_dropped_ = nullptr;
};

}  // namespace

bool match(const std::vector<Exchange>& exchanges, std::vector<Expectation> expectations, const MatchOptions& options,
           std::string& report) {
  Matcher matcher{exchanges, std::move(expectations), options};
  matcher.run();
  report = matcher.report;
  return matcher.good;
}

}  // namespace penstock::path
