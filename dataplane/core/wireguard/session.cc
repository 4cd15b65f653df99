#include "dataplane/core/wireguard/session.h"

#include "dataplane/core/wireguard/keys.h"

namespace penstock::wireguard {

void destroy_session(Session* session) {
  if (session == nullptr) return;
  wipe(session->send_key);
  wipe(session->receive_key);
  delete session;
}

}  // namespace penstock::wireguard
