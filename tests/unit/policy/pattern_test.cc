#include "dataplane/core/policy/pattern.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>

namespace penstock::policy {
namespace {

TEST(NormaliseName, FoldsAndChecks) {
  EXPECT_EQ(normalise_name("Web4.CORP.example."), "web4.corp.example");
  EXPECT_EQ(normalise_name("_sip._tcp.corp.example"), "_sip._tcp.corp.example");
  const std::string label(63, 'a');
  EXPECT_TRUE(normalise_name(label + "." + label));
  for (const std::string& bad :
       {std::string{}, std::string{"."}, std::string{".."}, std::string{"a..b"}, std::string{".a"}, std::string{"a b"},
        std::string{"b\xc3\xbc"}, label + "a", label + "." + label + "." + label + "." + label, std::string("a\0b", 3)})
    EXPECT_FALSE(normalise_name(bad)) << bad;
}

TEST(Pattern, Matches) {
  struct Case {
    const char* pattern;
    const char* name;
    bool matches;
  };
  for (const Case& c : {
           Case{"web.corp.example", "web.corp.example", true},
           Case{"web.corp.example", "a.web.corp.example", false},
           Case{"*.corp.example", "web.corp.example", true},
           Case{"*.corp.example", "corp.example", false},
           Case{"*.corp.example", "a.b.corp.example", false},
           Case{"**.corp.example", "corp.example", true},
           Case{"**.corp.example", "a.b.corp.example", true},
           Case{"**.corp.example", "xcorp.example", false},
           Case{"web?.corp.example", "web4.corp.example", true},
           Case{"web?.corp.example", "web.corp.example", false},
           Case{"web*.corp.example", "web.corp.example", true},
           Case{"w*b*4.corp.example", "webbab4.corp.example", true},
           Case{"w*b*4.corp.example", "webbab5.corp.example", false},
           Case{"a.**.example", "a.example", true},
           Case{"a.**.example", "a.x.y.example", true},
           Case{"a.**.example", "b.a.x.example", false},
           Case{"a.**.**.example", "a.example", true},
           Case{"**.a.**.b", "x.a.y.a.b", true},
           Case{"**", "anything.at.all", true},
           Case{"*", "one", true},
           Case{"*", "one.two", false},
           Case{"WEB.Corp.Example.", "web.corp.example", true},
       }) {
    const auto pattern = Pattern::parse(c.pattern);
    ASSERT_TRUE(pattern) << c.pattern;
    EXPECT_EQ(pattern->matches(c.name), c.matches) << c.pattern << " " << c.name;
    PatternSet<int> set;
    set.add(*pattern, 7);
    EXPECT_EQ(!set.find(c.name).empty(), c.matches) << c.pattern << " " << c.name;
  }
}

// trap: dns-11
TEST(PatternSet, MostSpecificFirst) {
  PatternSet<int> set;
  EXPECT_TRUE(set.add("**", 0));
  EXPECT_TRUE(set.add("**.example", 1));
  EXPECT_TRUE(set.add("**.corp.example", 2));
  EXPECT_TRUE(set.add("*.corp.example", 3));
  EXPECT_TRUE(set.add("web*.corp.example", 4));
  EXPECT_TRUE(set.add("web?.corp.example", 5));
  EXPECT_TRUE(set.add("web4.corp.example", 6));
  EXPECT_TRUE(set.add("**.web4.corp.example", 7));
  EXPECT_TRUE(set.add("web4.corp.example", 8));
  EXPECT_EQ(set.find("web4.corp.example"), (std::vector<int>{6, 8, 7, 5, 4, 3, 2, 1, 0}));
  EXPECT_EQ(set.find("corp.example"), (std::vector<int>{2, 1, 0}));
  EXPECT_EQ(set.find("example"), (std::vector<int>{1, 0}));
  EXPECT_FALSE(set.add("a..b", 9));
}

rc::Gen<std::string> small_name(const std::string& alphabet) {
  return rc::gen::map(
      rc::gen::resize(4, rc::gen::nonEmpty(rc::gen::container<std::vector<std::string>>(rc::gen::resize(
                             3, rc::gen::nonEmpty(rc::gen::container<std::string>(rc::gen::elementOf(alphabet))))))),
      [](const std::vector<std::string>& labels) {
        std::string out;
        for (const std::string& label : labels) out += (out.empty() ? "" : ".") + label;
        return out;
      });
}

TEST(PatternSet, AgreesWithMatchingOneByOne) {
  EXPECT_TRUE(rc::check([] {
    const auto texts = *rc::gen::container<std::vector<std::string>>(small_name("ab*?"));
    const auto name = *small_name("ab");
    PatternSet<std::size_t> set;
    std::vector<std::pair<Pattern, std::size_t>> expected;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto pattern = Pattern::parse(texts[i]);
      RC_ASSERT(pattern.has_value());
      set.add(*pattern, i);
      if (pattern->matches(name)) expected.emplace_back(*pattern, i);
    }
    std::sort(expected.begin(), expected.end(), [](const auto& a, const auto& b) {
      const auto order = Pattern::compare_specificity(a.first, b.first);
      return order != std::strong_ordering::equal ? order == std::strong_ordering::less : a.second < b.second;
    });
    std::vector<std::size_t> ids;
    for (const auto& entry : expected) ids.push_back(entry.second);
    RC_ASSERT(set.find(name) == ids);
  }));
}

TEST(PatternSet, AnyBytesAreHarmless) {
  EXPECT_TRUE(rc::check([](const std::string& text, const std::string& name) {
    PatternSet<int> set;
    if (set.add(text, 1)) RC_ASSERT(set.size() == 1u);
    (void)set.find(name);
    (void)normalise_name(name);
  }));
}

TEST(PatternSet, ManyPatternsManyLookups) {
  PatternSet<int> set;
  for (int i = 0; i < 20000; ++i) EXPECT_TRUE(set.add("app" + std::to_string(i) + "-*.corp.example", i));
  for (int i = 0; i < 20000; ++i) {
    const auto found = set.find("app" + std::to_string(i) + "-x.corp.example");
    ASSERT_EQ(found, std::vector<int>{i});
  }
}

}  // namespace
}  // namespace penstock::policy
