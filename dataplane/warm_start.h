// The two ends of a warm restart (docs/healing.md): what a data plane leaves when it ends, and what the next one takes
// up before it starts. Main thread.
#pragma once

#include <functional>

#include "dataplane/io/handover_link.h"
#include "dataplane/runtime/engine.h"
#include "dataplane/runtime/policy_store.h"

namespace penstock {

// Between Engine::create and start. `apply_file` applies the configuration's own policies: peers of the file are peers
// of the process before as well. Without a usable state that is all that happens, and the log says why.
void take_up(io::HandoverLink& link, runtime::Engine& engine, runtime::PolicyStore& store,
             const std::function<void()>& apply_file);

// Stops the engine's threads in between. Nothing may change the store any more.
void leave_behind(io::HandoverLink& link, runtime::Engine& engine, const runtime::PolicyStore& store);

}  // namespace penstock
