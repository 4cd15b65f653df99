// The simple model that predicts what must happen. It knows the scenario and nothing of the implementation: which flow
// is disturbed from when to when, and who has which right. From that follows, for every packet an application sent,
// whether it must arrive, may arrive, or must not.
//
// Times a flow has to be whole again after each kind of disturbance are `settle` below, one place for all; they are
// paths.md's goals where those speak of it, plus what several mishaps at once may add.
#pragma once

#include <string>
#include <vector>

#include "tests/model/system/application.h"
#include "tests/model/system/scenario.h"

namespace penstock::model {

enum class Verdict : std::uint8_t { must, may, must_not };

class Reference {
 public:
  explicit Reference(const Scenario& plan);

  // `sent`: since the start of the run.
  [[nodiscard]] Verdict request(unsigned flow, Duration sent) const;
  // A packet that the server sends first.
  [[nodiscard]] Verdict downward(unsigned flow, Duration sent) const;
  // The flow is hit by nothing but one reset of a NAT near `sent`, and nothing else is bad: paths.md promises no loss.
  // `by`: until when a packet that is sent meanwhile must have arrived.
  [[nodiscard]] bool only_a_reset_near(unsigned flow, Duration sent, Duration& reset_at, Duration& by) const;
  [[nodiscard]] std::string why(unsigned flow, Duration sent) const;  // the disturbances nearest to it

  // How long a packet may be on its way when all is well.
  static constexpr Duration kDelivery = std::chrono::milliseconds{1500};

 private:
  struct Disturbance {
    Duration from{}, until{};  // until: settled
    const Event* event = nullptr;
    bool reset = false;  // of a NAT, alone
  };
  struct Right {
    Duration from{};
    bool has = true;
    Duration sure{};  // from here on it must be in force
  };
  void add(unsigned client, unsigned site, Duration from, Duration until, const Event& event, bool reset = false);
  void add_client(unsigned client, Duration from, Duration until, const Event& event, bool reset = false);
  void add_site(unsigned site, Duration from, Duration until, const Event& event, bool reset = false);
  void take(const Event& event);
  // A server cannot reach these flows first before they have sent something after `until`.
  void deafen(unsigned client, unsigned site, Duration from, Duration until, const Event& event);
  // When the client's applications use the site next, from `after` on; and when this flow does.
  [[nodiscard]] Duration next_use(unsigned client, unsigned site, Duration after) const;
  [[nodiscard]] Duration next_use(unsigned flow, Duration after) const;
  // Whether the flow's translation at the gateway stands for sure when a server sends then: a request went through it
  // within the time that UDP may be idle.
  [[nodiscard]] bool translated(unsigned flow, Duration sent) const;
  [[nodiscard]] bool gateway_filters(unsigned site) const;
  // Clients' NATs forget or move, or the client roams, at about that time.
  [[nodiscard]] bool moves_near(unsigned client, Duration at) const;
  // Between client and site through a relay; and how long it takes at most until packets flow again: paths.md's four
  // round trips and so many `trips` for another allocation. Never less than `at_least`.
  [[nodiscard]] Duration round_trip(unsigned client, unsigned site, Duration at) const;
  [[nodiscard]] Duration settles(Duration at_least, unsigned client, unsigned site, Duration at, int trips) const;
  // The client has no tunnel to the site, or one that nothing passed through for so long that it is idle.
  [[nodiscard]] bool asleep(unsigned client, unsigned site, Duration at) const;
  void add_reset(unsigned client, unsigned site, const Event& event, bool anew, bool told, bool lossless);
  // A session that is gone is missed when it is used next, be it by a keepalive: settled `usual` after `end`, or a
  // while after that.
  [[nodiscard]] Duration missed(unsigned client, unsigned site, Duration end, Duration usual) const;
  // When whoever must be asked or told (portal, control processes) has been there for a while, from `at` on. A
  // gateway's stream that a NAT cut counts as away until keepalives find it, if the NAT gives the same ports again and
  // nothing else shows. `streams`: those of clients too, which dial another when they want something, but not when they
  // are told.
  [[nodiscard]] Duration informed(Duration at, bool streams = false) const;
  [[nodiscard]] Verdict right(unsigned client, unsigned site, Duration sent) const;
  [[nodiscard]] bool calm(unsigned flow, Duration sent) const;

  Scenario plan_;
  std::vector<std::vector<std::vector<Disturbance>>> disturbances_;  // client, site
  std::vector<std::vector<Disturbance>> deaf_;  // by flow: those that only concern who speaks to the client
  std::vector<std::vector<std::vector<Right>>> rights_;
  struct Away {
    Duration from{}, until{};
    // A NAT forgot: the stream is broken until somebody notices.
    enum Stream : std::uint8_t { whole, of_client, of_gateway } stream = whole;
  };
  std::vector<Away> away_;
  std::vector<unsigned> client_network_;
};

}  // namespace penstock::model
