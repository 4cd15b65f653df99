#include "dataplane/core/policy/pattern.h"

#include <algorithm>

namespace penstock::policy {
namespace {

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::vector<std::string_view> split_from_right(std::string_view name) {
  std::vector<std::string_view> labels;
  while (true) {
    const std::size_t dot = name.rfind('.');
    if (dot == std::string_view::npos) break;
    labels.push_back(name.substr(dot + 1));
    name = name.substr(0, dot);
  }
  labels.push_back(name);
  return labels;
}

// Classic two-pointer glob over one label: on a mismatch fall back to the last `*`, which then takes one more
// character.
bool glob_matches(std::string_view glob, std::string_view label) {
  std::size_t g = 0;
  std::size_t l = 0;
  std::size_t star = std::string_view::npos;
  std::size_t resume = 0;
  while (l < label.size()) {
    if (g < glob.size() && glob[g] == '*') {
      star = g++;
      resume = l;
    } else if (g < glob.size() && (glob[g] == '?' || glob[g] == label[l])) {
      ++g;
      ++l;
    } else if (star != std::string_view::npos) {
      g = star + 1;
      l = ++resume;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

// Order of the classes in a comparison; a pattern that has ended stands between `*` and `**`.
int rank(const std::vector<Pattern::Label>& labels, std::size_t i) {
  if (i >= labels.size()) return 3;
  const int kind = static_cast<int>(labels[i].kind);
  return labels[i].kind == Pattern::LabelClass::double_star ? 4 : kind;
}

void add_unique(std::vector<std::uint32_t>& set, std::uint32_t value) {
  if (std::find(set.begin(), set.end(), value) == set.end()) set.push_back(value);
}

}  // namespace

std::optional<std::string> normalise_name(std::string_view name) {
  if (!name.empty() && name.back() == '.') name.remove_suffix(1);
  if (name.empty() || name.size() > kMaxNameLength) return std::nullopt;
  std::string out;
  out.reserve(name.size());
  std::size_t label = 0;
  for (const char c : name) {
    if (c == '.') {
      if (label == 0) return std::nullopt;
      label = 0;
    } else {
      if (c <= 0x20 || c >= 0x7f || ++label > kMaxLabelLength) return std::nullopt;
    }
    out.push_back(lower(c));
  }
  if (label == 0) return std::nullopt;
  return out;
}

std::optional<Pattern> Pattern::parse(std::string_view text) {
  const auto name = normalise_name(text);
  if (!name) return std::nullopt;
  Pattern out;
  for (const std::string_view label : split_from_right(*name)) {
    Label parsed;
    if (label == "**") {
      if (!out.labels_.empty() && out.labels_.back().kind == LabelClass::double_star) continue;
      parsed = {"**", LabelClass::double_star};
    } else {
      for (const char c : label) {
        if (c == '*' && !parsed.text.empty() && parsed.text.back() == '*') continue;
        if (c == '*') parsed.kind = LabelClass::star;
        if (c == '?' && parsed.kind == LabelClass::literal) parsed.kind = LabelClass::question;
        parsed.text.push_back(c);
      }
    }
    out.labels_.push_back(std::move(parsed));
  }
  for (std::size_t i = out.labels_.size(); i-- > 0;) {
    out.text_ += out.labels_[i].text;
    if (i != 0) out.text_ += '.';
  }
  return out;
}

bool Pattern::is_literal() const {
  return std::all_of(labels_.begin(), labels_.end(),
                     [](const Label& label) { return label.kind == LabelClass::literal; });
}

bool Pattern::matches(std::string_view name) const {
  const std::vector<std::string_view> labels = split_from_right(name);
  // reachable[p]: pattern labels before p match the name's labels so far.
  std::vector<bool> reachable(labels_.size() + 1, false);
  const auto skip_double_stars = [&](std::vector<bool>& states) {
    for (std::size_t p = 0; p < labels_.size(); ++p)
      if (states[p] && labels_[p].kind == LabelClass::double_star) states[p + 1] = true;
  };
  reachable[0] = true;
  skip_double_stars(reachable);
  for (const std::string_view label : labels) {
    std::vector<bool> next(labels_.size() + 1, false);
    for (std::size_t p = 0; p < labels_.size(); ++p) {
      if (!reachable[p]) continue;
      if (labels_[p].kind == LabelClass::double_star) {
        next[p] = true;
      } else if (glob_matches(labels_[p].text, label)) {
        next[p + 1] = true;
      }
    }
    skip_double_stars(next);
    reachable = std::move(next);
  }
  return reachable[labels_.size()];
}

std::strong_ordering Pattern::compare_specificity(const Pattern& a, const Pattern& b) {
  const std::size_t most = std::max(a.labels_.size(), b.labels_.size());
  for (std::size_t i = 0; i < most; ++i) {
    const auto order = rank(a.labels_, i) <=> rank(b.labels_, i);
    if (order != std::strong_ordering::equal) return order;
  }
  return b.text_.size() <=> a.text_.size();
}

namespace detail {

PatternAutomaton::PatternAutomaton() {
  nodes_.emplace_back();
}

std::uint32_t PatternAutomaton::add(const Pattern& pattern) {
  std::uint32_t node = 0;
  for (const Pattern::Label& label : pattern.labels_from_right()) node = step(node, label);
  nodes_[node].patterns.push_back(count_);
  return count_++;
}

std::uint32_t PatternAutomaton::step(std::uint32_t from, const Pattern::Label& label) {
  const auto fresh = static_cast<std::uint32_t>(nodes_.size());
  std::uint32_t* edge = nullptr;
  if (label.kind == Pattern::LabelClass::literal) {
    edge = &nodes_[from].literals.try_emplace(label.text, kNone).first->second;
  } else if (label.kind == Pattern::LabelClass::double_star) {
    edge = &nodes_[from].double_star;
  } else if (label.text == "*") {
    edge = &nodes_[from].star;
  } else {
    if (nodes_[from].globs == kNone) {
      nodes_[from].globs = static_cast<std::uint32_t>(chars_.size());
      chars_.emplace_back();
    }
    std::uint32_t at = nodes_[from].globs;
    for (const char c : label.text) at = char_step(at, c);
    edge = &chars_[at].label_end;
  }
  if (*edge == kNone) {
    *edge = fresh;
    nodes_.emplace_back().loops = label.kind == Pattern::LabelClass::double_star;
    return fresh;
  }
  return *edge;
}

std::uint32_t PatternAutomaton::char_step(std::uint32_t from, char c) {
  const auto fresh = static_cast<std::uint32_t>(chars_.size());
  CharNode& node = chars_[from];
  if (c == '?' || c == '*') {
    std::uint32_t& edge = c == '?' ? node.question : node.star;
    if (edge != kNone) return edge;
    edge = fresh;
  } else {
    const auto at = std::lower_bound(node.edges.begin(), node.edges.end(), std::pair{c, std::uint32_t{0}});
    if (at != node.edges.end() && at->first == c) return at->second;
    node.edges.insert(at, {c, fresh});
  }
  chars_.emplace_back().loops = c == '*';
  return fresh;
}

void PatternAutomaton::match_globs(std::uint32_t root, std::string_view label,
                                   std::vector<std::uint32_t>& reached) const {
  std::vector<std::uint32_t> active;
  std::vector<std::uint32_t> next;
  const auto enter = [this](std::uint32_t node, std::vector<std::uint32_t>& set) {
    while (node != kNone) {  // a `*` may also be nothing
      add_unique(set, node);
      node = chars_[node].star;
    }
  };
  enter(root, active);
  for (const char c : label) {
    next.clear();
    for (const std::uint32_t at : active) {
      const CharNode& node = chars_[at];
      if (node.loops) enter(at, next);
      enter(node.question, next);
      const auto edge = std::lower_bound(node.edges.begin(), node.edges.end(), std::pair{c, std::uint32_t{0}});
      if (edge != node.edges.end() && edge->first == c) enter(edge->second, next);
    }
    active.swap(next);
    if (active.empty()) return;
  }
  for (const std::uint32_t at : active)
    if (chars_[at].label_end != kNone) activate(chars_[at].label_end, reached);
}

void PatternAutomaton::activate(std::uint32_t node, std::vector<std::uint32_t>& active) const {
  while (node != kNone) {  // a `**` may also be no label
    add_unique(active, node);
    node = nodes_[node].double_star;
  }
}

std::vector<std::uint32_t> PatternAutomaton::find(std::string_view name) const {
  std::vector<std::uint32_t> active;
  std::vector<std::uint32_t> next;
  activate(0, active);
  for (const std::string_view label : split_from_right(name)) {
    next.clear();
    for (const std::uint32_t at : active) {
      const LabelNode& node = nodes_[at];
      if (node.loops) activate(at, next);
      if (!node.literals.empty()) {
        const auto literal = node.literals.find(std::string{label});
        if (literal != node.literals.end()) activate(literal->second, next);
      }
      if (node.star != kNone) activate(node.star, next);
      if (node.globs != kNone) match_globs(node.globs, label, next);
    }
    active.swap(next);
  }
  std::vector<std::uint32_t> found;
  for (const std::uint32_t at : active)
    for (const std::uint32_t pattern : nodes_[at].patterns) found.push_back(pattern);
  return found;
}

}  // namespace detail
}  // namespace penstock::policy
