//! The states of one instance. Pure: no process, socket or clock in it; `actor` does what the actions say.
//!
//! ```text
//! Stopped -> Preparing -> Starting -> Probing -> Ready <-> Degraded
//! Ready | Degraded -> Draining -> Stopping -> Killing -> Finishing -> Stopped
//! a failure -> Killing -> Backoff -> Preparing, or Starting where only the port was taken; too many -> Failed -> Preparing
//! ```
//!
//! What is wanted in the end is kept beside the phase, so that "start" during a stop and "stop" during a start are
//! never lost and never cut a phase that has to be finished.

/// Where an instance is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Phase {
    /// No process.
    Stopped,
    /// Waits for a place, then runs the hook before the start.
    Preparing,
    /// The process is being made.
    Starting,
    /// The process runs and is asked whether it is ready.
    Probing,
    /// It serves.
    Ready,
    /// It serves, but not everything works.
    Degraded,
    /// It gets no new connection and may finish what it does.
    Draining,
    /// It was asked to end.
    Stopping,
    /// It is being killed.
    Killing,
    /// Nothing of it is left; the hook after the stop runs.
    Finishing,
    /// No process; it failed and is tried again after a pause.
    Backoff,
    /// No process; it failed too often and is tried again seldom.
    Failed,
}

/// Why an instance rests.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Rest {
    /// Somebody asked: connections do not wake it.
    Asked,
    /// Nobody needed it; the first connection wakes it.
    Asleep,
    /// It used more than it may; the first connection wakes it.
    Limit,
}

/// What is wanted in the end.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Goal {
    /// Ready.
    Run,
    /// Stopped.
    Rest(Rest),
    /// Ready, with another process than now.
    Renew,
}

/// What became of the process, as far as it was no plan of ours.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Trouble {
    No,
    /// It failed.
    Failed,
    /// Somebody else had its port: no fault of its own.
    PortTaken,
}

/// Where an instance is and where it goes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct State {
    phase: Phase,
    goal: Goal,
    trouble: Trouble,
    /// Whether this is the one try of an instance that has failed too often.
    half_open: bool,
    /// Whether a process ran since the hook after the stop, which it has a right to.
    ran: bool,
}

/// What happens to an instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// A connection wants it.
    Connection,
    /// Somebody asks for it, at the control socket or by `start = "boot"`.
    Wake,
    /// It shall rest.
    Rest(Rest),
    /// It shall get a fresh process, when what it does is finished.
    Renew,
    /// It shall get a fresh process now.
    RenewNow,
    /// It has a place and the hook before the start is done.
    Prepared,
    /// That hook failed, and must not.
    NotPrepared,
    /// That hook was called off, because the instance is to rest.
    CalledOff,
    /// The process runs.
    Started,
    /// It answers.
    Answers,
    /// Not everything works.
    Worse,
    /// Everything works again.
    Better,
    /// There is no process, it has exited, or it must be replaced.
    Broke,
    /// It, or we, found its port taken.
    PortTaken,
    /// Nobody uses it any more, or the time for that is over.
    Drained,
    /// Asking was not enough.
    KillBegan,
    /// No process is left.
    Empty,
    /// The hook after the stop is done.
    Finished,
    /// It has failed too often.
    TooMany,
    /// The pause after a failure is over.
    PauseOver,
}

/// What is to be done on entering a state; each replaces what was being done before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Get a place, run the hook before the start.
    Prepare,
    /// Make the process.
    Spawn,
    /// Ask until it is ready.
    Probe,
    /// Watch over it: exit, liveness, limits, idleness.
    Watch,
    /// Wait until nobody uses it.
    Drain,
    /// Ask it to end, then kill.
    Stop,
    /// Kill what is left.
    Kill,
    /// Run the hook after the stop.
    Finish,
    /// Count a failure, and pause.
    Pause,
    /// Pause for long.
    PauseLong,
    /// Nothing.
    Nothing,
}

impl Default for State {
    fn default() -> Self {
        let goal = Goal::Rest(Rest::Asleep);
        State { phase: Phase::Stopped, goal, trouble: Trouble::No, half_open: false, ran: false }
    }
}

impl State {
    /// Where it is.
    pub fn phase(self) -> Phase {
        self.phase
    }

    /// Why it rests or is going to.
    pub fn rest(self) -> Option<Rest> {
        match self.goal {
            Goal::Rest(rest) => Some(rest),
            Goal::Renew | Goal::Run => None,
        }
    }

    /// Whether a connection may go to it now.
    pub fn serves(self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Degraded)
    }

    /// Whether a connection waits for nothing: it will not be started for one.
    pub fn refuses(self) -> bool {
        self.phase == Phase::Failed || self.rest() == Some(Rest::Asked)
    }

    /// Whether it holds processes, or may.
    pub fn has_process(self) -> bool {
        use Phase::{Degraded, Draining, Killing, Probing, Ready, Starting, Stopping};
        matches!(self.phase, Starting | Probing | Ready | Degraded | Draining | Stopping | Killing)
    }

    /// Whether it holds a process that nobody has asked to end.
    pub fn keeps_process(self) -> bool {
        matches!(self.phase, Phase::Probing | Phase::Ready | Phase::Degraded | Phase::Draining)
    }

    /// Applies an event; the action, if any, replaces what is being done.
    pub fn on(self, event: Event) -> (State, Option<Action>) {
        match event {
            Event::Connection if self.rest() == Some(Rest::Asked) => (self, None),
            Event::Connection | Event::Wake => self.want(event == Event::Wake),
            Event::Rest(rest) => self.leave(Goal::Rest(rest)),
            Event::Renew => self.leave(Goal::Renew),
            Event::RenewNow => self.renew_now(),
            Event::Prepared | Event::NotPrepared | Event::CalledOff if self.phase == Phase::Preparing => {
                self.prepared(event)
            }
            Event::Started if self.phase == Phase::Starting => {
                let state = State { ran: true, ..self };
                match self.goal {
                    Goal::Run => state.to(Phase::Probing, Action::Probe),
                    Goal::Renew | Goal::Rest(_) => state.to(Phase::Stopping, Action::Stop),
                }
            }
            Event::Answers if self.phase == Phase::Probing => {
                State { half_open: false, ..self }.to(Phase::Ready, Action::Watch)
            }
            // The watch goes on: what it has counted so far is as true as before.
            Event::Worse if self.phase == Phase::Ready => (State { phase: Phase::Degraded, ..self }, None),
            Event::Better if self.phase == Phase::Degraded => (State { phase: Phase::Ready, ..self }, None),
            Event::Broke => self.broke(Trouble::Failed),
            Event::PortTaken => self.broke(Trouble::PortTaken),
            Event::Drained if self.phase == Phase::Draining => self.to(Phase::Stopping, Action::Stop),
            Event::KillBegan if self.phase == Phase::Stopping => {
                (State { phase: Phase::Killing, ..self }, None)
            }
            Event::Empty if matches!(self.phase, Phase::Stopping | Phase::Killing) => self.empty(),
            Event::Finished if self.phase == Phase::Finishing => {
                let state = State { ran: false, ..self };
                match self.goal {
                    Goal::Rest(_) => state.to(Phase::Stopped, Action::Nothing),
                    Goal::Renew | Goal::Run => state.begin(),
                }
            }
            Event::TooMany if self.phase == Phase::Backoff => self.to(Phase::Failed, Action::PauseLong),
            Event::PauseOver if self.phase == Phase::Backoff => self.begin(),
            Event::PauseOver if self.phase == Phase::Failed => {
                let (state, action) = self.begin();
                (State { half_open: true, ..state }, action)
            }
            // About a phase that is over.
            Event::Prepared
            | Event::NotPrepared
            | Event::CalledOff
            | Event::Started
            | Event::Answers
            | Event::Worse
            | Event::Better
            | Event::Drained
            | Event::KillBegan
            | Event::Empty
            | Event::Finished
            | Event::TooMany
            | Event::PauseOver => (self, None),
        }
    }

    fn to(self, phase: Phase, action: Action) -> (State, Option<Action>) {
        (State { phase, ..self }, Some(action))
    }

    fn begin(self) -> (State, Option<Action>) {
        let begun = State { goal: Goal::Run, trouble: Trouble::No, half_open: false, ..self };
        begun.to(Phase::Preparing, Action::Prepare)
    }

    fn prepared(self, event: Event) -> (State, Option<Action>) {
        match (event, self.goal) {
            (_, Goal::Rest(_)) => self.without_process(),
            // Called off, and then wanted again.
            (Event::CalledOff, _) => self.begin(),
            (Event::Prepared, _) => self.to(Phase::Starting, Action::Spawn),
            _ => State { trouble: Trouble::Failed, ..self }.empty(),
        }
    }

    /// To rest, where there is no process: what ran before still has a right to the hook after the stop.
    fn without_process(self) -> (State, Option<Action>) {
        let state = State { trouble: Trouble::No, half_open: false, ..self };
        if self.ran {
            state.to(Phase::Finishing, Action::Finish)
        } else {
            state.to(Phase::Stopped, Action::Nothing)
        }
    }

    fn want(self, by_command: bool) -> (State, Option<Action>) {
        match (self.phase, self.goal) {
            (Phase::Stopped, _) => self.begin(),
            // A pause protects the machine from a connection, not from a person.
            (Phase::Backoff | Phase::Failed, _) if by_command => self.begin(),
            // It was to rest, and nothing has been done to it yet.
            (Phase::Draining, Goal::Rest(_)) => {
                State { goal: Goal::Run, ..self }.to(Phase::Ready, Action::Watch)
            }
            (Phase::Stopping | Phase::Killing | Phase::Finishing, Goal::Rest(_)) => {
                (State { goal: Goal::Renew, ..self }, None)
            }
            (Phase::Preparing | Phase::Starting | Phase::Probing, Goal::Rest(_)) => {
                (State { goal: Goal::Run, ..self }, None)
            }
            _ => (self, None),
        }
    }

    fn leave(self, goal: Goal) -> (State, Option<Action>) {
        // What a person asked for outlasts what we would like; asked for twice is no more than once.
        let goal = match (self.goal, goal) {
            (Goal::Rest(Rest::Asked), Goal::Rest(_)) => self.goal,
            _ => goal,
        };
        let state = State { goal, ..self };
        match self.phase {
            Phase::Ready | Phase::Degraded => state.to(Phase::Draining, Action::Drain),
            Phase::Probing => state.to(Phase::Stopping, Action::Stop),
            // Nothing has been made that would have to be stopped.
            Phase::Backoff | Phase::Failed => match goal {
                Goal::Rest(_) => state.without_process(),
                Goal::Renew | Goal::Run => state.begin(),
            },
            // The hook hears of it and ends.
            Phase::Preparing => match goal {
                Goal::Rest(_) => (state, None),
                Goal::Renew | Goal::Run => (State { goal: Goal::Run, ..self }, None),
            },
            Phase::Stopped => match goal {
                Goal::Rest(_) => (state, None),
                Goal::Renew | Goal::Run => state.begin(),
            },
            // A process is being made, or is on its way out: the goal decides at the end of that.
            Phase::Starting | Phase::Draining | Phase::Stopping | Phase::Killing | Phase::Finishing => {
                (state, None)
            }
        }
    }

    fn renew_now(self) -> (State, Option<Action>) {
        match self.phase {
            Phase::Ready | Phase::Degraded | Phase::Draining => {
                let goal = if self.phase == Phase::Draining { self.goal } else { Goal::Renew };
                State { goal, ..self }.to(Phase::Stopping, Action::Stop)
            }
            // One that has failed too often gets one try, not two.
            Phase::Probing if self.half_open => self.broke(Trouble::Failed),
            _ => self.leave(Goal::Renew),
        }
    }

    fn broke(self, trouble: Trouble) -> (State, Option<Action>) {
        match self.phase {
            Phase::Starting | Phase::Probing | Phase::Ready | Phase::Degraded | Phase::Draining => {
                State { trouble, ..self }.to(Phase::Killing, Action::Kill)
            }
            _ => (self, None),
        }
    }

    /// Nothing is left of the process.
    fn empty(self) -> (State, Option<Action>) {
        match (self.trouble, self.goal) {
            (Trouble::Failed, Goal::Run) if self.half_open => self.to(Phase::Failed, Action::PauseLong),
            (Trouble::Failed, Goal::Run) => self.to(Phase::Backoff, Action::Pause),
            (Trouble::PortTaken, Goal::Run) => {
                State { trouble: Trouble::No, ..self }.to(Phase::Starting, Action::Spawn)
            }
            _ => {
                State { trouble: Trouble::No, half_open: false, ..self }.to(Phase::Finishing, Action::Finish)
            }
        }
    }
}

#[cfg(test)]
mod tests;
