// DNS names and the patterns that Resources are given by.
//
// A pattern is a sequence of labels. A label `*` is exactly one label; `*` inside a label is any characters of it (also
// none); `**` as a label is any number of labels (also none); `?` is one character. Matching ignores case. IDNA is done
// by the caller: names and patterns are A-labels here, ASCII only.
//
// Specificity, most specific first: label by label from the right, literal before `?` before `*` before `**` (a label
// with both counts as `*`; a pattern that ends where the other goes on with `**` is the more specific one, so an exact
// name beats every wildcard); then the longer pattern; then the lowest id.
//
// PatternSet is an automaton over labels, from the right, whose edges with wildcards inside a label are an automaton
// over characters: the work of a look-up grows with the name and with the wildcards that really apply to it, not with
// the number of patterns. Building allocates; `find` allocates its answer. Any number of threads may call const
// members of one object. Malformed text gives nullopt, never an exception.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace penstock::policy {

inline constexpr std::size_t kMaxNameLength = 253;  // RFC 1035 §2.3.4, as text without the trailing dot
inline constexpr std::size_t kMaxLabelLength = 63;

// Lower case, without a trailing dot; labels of 1-63 and a whole of at most 253 printable ASCII characters. nullopt for
// everything else, also for the root ("." or "").
[[nodiscard]] std::optional<std::string> normalise_name(std::string_view name);

class Pattern {
 public:
  enum class LabelClass : std::uint8_t { literal, question, star, double_star };
  struct Label {
    std::string text;
    LabelClass kind = LabelClass::literal;
  };

  // Normalised like a name; runs of `**` labels become one and runs of `*` inside a label one `*`.
  static std::optional<Pattern> parse(std::string_view text);

  [[nodiscard]] const std::string& text() const { return text_; }
  [[nodiscard]] bool is_literal() const;
  // Rightmost label first.
  [[nodiscard]] const std::vector<Label>& labels_from_right() const { return labels_; }
  // `name`: normalised. For one pattern alone; many belong into a PatternSet.
  [[nodiscard]] bool matches(std::string_view name) const;

  // less: `a` is more specific than `b`; equal: only the ids decide.
  static std::strong_ordering compare_specificity(const Pattern& a, const Pattern& b);

 private:
  std::string text_;
  std::vector<Label> labels_;
};

namespace detail {

// The automaton without ids: patterns are numbered in the order they were added.
class PatternAutomaton {
 public:
  PatternAutomaton();
  std::uint32_t add(const Pattern& pattern);
  // Numbers of all patterns that match, in no particular order.
  [[nodiscard]] std::vector<std::uint32_t> find(std::string_view name) const;

 private:
  static constexpr std::uint32_t kNone = 0xffffffff;

  struct CharNode {                                     // within a label, left to right
    std::vector<std::pair<char, std::uint32_t>> edges;  // sorted by character
    std::uint32_t question = kNone;
    std::uint32_t star = kNone;  // node that loops on every character
    bool loops = false;
    std::uint32_t label_end = kNone;  // LabelNode reached when the label ends here
  };
  struct LabelNode {  // labels, right to left
    std::unordered_map<std::string, std::uint32_t> literals;
    std::uint32_t globs = kNone;        // CharNode: root of labels with wildcards inside
    std::uint32_t star = kNone;         // exactly one label
    std::uint32_t double_star = kNone;  // node that loops on every label
    bool loops = false;
    std::vector<std::uint32_t> patterns;  // that end here
  };

  std::uint32_t step(std::uint32_t from, const Pattern::Label& label);
  std::uint32_t char_step(std::uint32_t from, char c);
  void match_globs(std::uint32_t root, std::string_view label, std::vector<std::uint32_t>& reached) const;
  void activate(std::uint32_t node, std::vector<std::uint32_t>& active) const;

  std::vector<LabelNode> nodes_;
  std::vector<CharNode> chars_;
  std::uint32_t count_ = 0;
};

}  // namespace detail

// Patterns with ids. `Id` is copyable and ordered by <.
template <typename Id>
class PatternSet {
 public:
  void add(const Pattern& pattern, Id id) {
    automaton_.add(pattern);
    entries_.push_back({pattern, std::move(id)});
  }
  // False (unchanged) when the text is no pattern.
  bool add(std::string_view pattern, Id id) {
    auto parsed = Pattern::parse(pattern);
    if (!parsed) return false;
    add(*parsed, std::move(id));
    return true;
  }

  // Ids of all patterns that match, most specific first. `name`: normalised.
  [[nodiscard]] std::vector<Id> find(std::string_view name) const {
    std::vector<std::uint32_t> found = automaton_.find(name);
    // Few match one name, so an insertion sort by (specificity, id) is enough.
    for (std::size_t i = 1; i < found.size(); ++i)
      for (std::size_t j = i; j > 0 && before(found[j], found[j - 1]); --j) std::swap(found[j], found[j - 1]);
    std::vector<Id> ids;
    ids.reserve(found.size());
    for (const std::uint32_t entry : found) ids.push_back(entries_[entry].id);
    return ids;
  }

  [[nodiscard]] std::size_t size() const { return entries_.size(); }
  [[nodiscard]] bool empty() const { return entries_.empty(); }
  void clear() { *this = PatternSet{}; }

 private:
  struct Entry {
    Pattern pattern;
    Id id;
  };
  [[nodiscard]] bool before(std::uint32_t a, std::uint32_t b) const {
    const auto order = Pattern::compare_specificity(entries_[a].pattern, entries_[b].pattern);
    return order != std::strong_ordering::equal ? order == std::strong_ordering::less : entries_[a].id < entries_[b].id;
  }

  detail::PatternAutomaton automaton_;
  std::vector<Entry> entries_;
};

}  // namespace penstock::policy
