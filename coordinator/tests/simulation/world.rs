//! The agenda of everything that is going to happen, and the loop over it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use coordinator::state::{EventKind, Refusal};
use earshot_common::{
    ids::{SweepId, TrialId},
    sweep::Sweep,
};

use crate::{
    agent::{Agent, Timer},
    coverage::Coverage,
    dice::Dice,
    liar,
    message::{Call, Envelope, Reply, Request, Sender},
    plan::{ANSWER_MS, Plan, TICK_MS},
    site::Site,
    sweeps,
};

/// After the faults have ended everything must come to its end in this time: a hundred leases and attempts in a row.
const REST_MS_MAX: u64 = 3_600_000;

/// Messages sent while there were faults have arrived by then.
const LATE_MS_MAX: u64 = 90_000;

#[derive(Debug)]
pub(crate) enum Happening {
    Arrives(Envelope),
    Answered {
        sender: Sender,
        call: Call,
        reply: Reply,
    },
    Written {
        life: u64,
    },
    Tick {
        life: u64,
    },
    Dies,
    Starts,
    ClockIsSet,
    IsSuspended,
    Agent {
        agent: usize,
        life: u64,
        timer: Timer,
    },
    AgentDies,
    AgentFreezes,
    AgentLeaves,
    LinksAreCut,
    LinksAreMended(Vec<usize>),
    Lie,
    UserActs,
    /// One more sweep, while others run.
    UserHandsIn(Request),
    UserWantsAReplay,
    UserConcludes,
    Calm,
}

/// What everybody in the world may use.
pub(crate) struct Stage {
    pub(crate) seed: u64,
    pub(crate) now_ms: u64,
    pub(crate) dice: Dice,
    pub(crate) plan: Plan,
    pub(crate) covered: Coverage,
    agenda: BTreeMap<(u64, u64), Happening>,
    entered: u64,
    /// Agents that no message reaches or leaves.
    cut: BTreeSet<usize>,
    /// When the newest message that has arrived was sent.
    newest_sent_ms: u64,
}

pub(crate) struct World {
    stage: Stage,
    site: Site,
    agents: Vec<Agent>,
    /// What the user still wants to hand in, and the call that is under way.
    wishes: Vec<Request>,
    /// What comes to the user's mind later.
    later: Vec<Request>,
    wish_call: Option<Call>,
    /// Whether the user will look again whether there is anything left to wish.
    is_user_awake: bool,
    is_telling: bool,
}

impl Stage {
    pub(crate) fn later(&mut self, in_ms: u64, happening: Happening) {
        self.entered += 1;
        self.agenda.insert((self.now_ms + in_ms, self.entered), happening);
    }

    /// A number for a new call.
    pub(crate) fn call(&mut self) -> Call {
        self.entered += 1;
        Call(self.entered)
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.now_ms >= self.plan.calm_at_ms
    }

    /// Lets a fault happen again and again, while there are faults.
    fn recurring(&mut self, mean_ms: u64, happening: Happening) {
        if mean_ms > 0 && !self.is_calm() {
            let wait_ms = self.dice.wait_ms(mean_ms);
            self.later(wait_ms, happening);
        }
    }

    /// Puts a message on the network, which may lose it, double it, or be slow.
    pub(crate) fn send(&mut self, envelope: &Envelope) {
        let sender = envelope.sender;
        self.carry(sender, || Happening::Arrives(envelope.clone()));
    }

    pub(crate) fn answer(&mut self, sender: Sender, call: Call, reply: &Reply) {
        self.carry(sender, || Happening::Answered { sender, call, reply: reply.clone() });
    }

    fn carry(&mut self, sender: Sender, message: impl Fn() -> Happening) {
        let is_cut = matches!(sender, Sender::Agent(agent) if self.cut.contains(&agent));
        if is_cut || self.dice.chance(self.plan.drop) {
            self.covered.dropped_messages += 1;
            return;
        }
        let copies = 1 + u64::from(self.dice.chance(self.plan.duplicate));
        self.covered.duplicated_messages += copies - 1;
        for _ in 0..copies {
            let mut way_ms = self.dice.between(1, 20);
            if self.dice.chance(self.plan.delay) {
                way_ms += self.dice.between(100, 40_000);
                self.covered.delayed_messages += 1;
            }
            self.later(way_ms, message());
        }
    }
}

/// Sweeps are paused and resumed, and some cancelled, once they were handed in.
fn with_second_thoughts(mut wishes: Vec<Request>, dice: &mut Dice) -> Vec<Request> {
    for number in 0..wishes.len() as u32 {
        let sweep = SweepId(number);
        if dice.chance(0.4) {
            wishes.push(Request::User(EventKind::Paused { sweep }));
            wishes.push(Request::User(EventKind::Resumed { sweep }));
        }
        if dice.chance(0.15) {
            wishes.push(Request::User(EventKind::Cancelled { sweep }));
        }
    }
    wishes
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let plan = Plan::new(&mut dice);
        let agent = |index| {
            let (groups, fused) = (dice.between(1, 3), if dice.chance(0.3) { dice.between(2, 4) } else { 1 });
            Agent::new(index, groups as usize, fused as usize)
        };
        let agents = (0..plan.workers).map(agent).collect();
        let kind = dice.below(sweeps::KINDS) as usize;
        let is_large = plan.workers >= 100;
        let wishes = (0..plan.sweeps).map(|number| {
            let name = format!("sweep-{number}");
            let sweep = if is_large { sweeps::large_sweep(name) } else { sweeps::sweep(kind + number, name) };
            let sweep = Sweep { weight: *dice.pick(&[1, 1, 2, 3, 7]), ..sweep };
            let dataset = sweeps::dataset(&sweep);
            Request::User(EventKind::Submitted { sweep: Box::new(sweep), dataset })
        });
        let (mut wishes, mut later): (Vec<_>, Vec<_>) = (wishes.collect(), Vec::new());
        while wishes.len() > 1 && dice.chance(0.4) {
            later.extend(wishes.pop());
        }
        let wishes = with_second_thoughts(wishes, &mut dice);
        let stage = Stage {
            seed,
            now_ms: 0,
            dice,
            plan,
            covered: Coverage::default(),
            agenda: BTreeMap::new(),
            entered: 0,
            cut: BTreeSet::new(),
            newest_sent_ms: 0,
        };
        Self {
            stage,
            site: Site::default(),
            agents,
            wishes,
            later,
            wish_call: None,
            is_user_awake: true,
            is_telling: false,
        }
    }

    /// One that prints everything that happens.
    pub(crate) fn telling(seed: u64) -> Self {
        Self { is_telling: true, ..Self::new(seed) }
    }

    /// Runs to the end of every sweep. Panics where a promise is broken.
    pub(crate) fn run(mut self) -> Coverage {
        if self.is_telling {
            println!("{:#?}", self.stage.plan);
        }
        self.begin();
        while let Some(((at_ms, _), happening)) = self.stage.agenda.pop_first() {
            self.stage.now_ms = at_ms;
            if self.is_telling {
                println!("{at_ms:>8} {happening:?}");
            }
            self.happens(happening);
            if self.stage.is_calm() && self.wishes.is_empty() && self.site.has_ended() {
                break;
            }
            let limit_ms = self.stage.plan.calm_at_ms + REST_MS_MAX;
            assert!(self.stage.now_ms < limit_ms, "the sweeps never end");
        }
        self.stage.covered.hundreds_of_workers += u64::from(self.agents.len() >= 100);
        self.site.conclude(&mut self.stage);
        self.stage.covered
    }

    fn begin(&mut self) {
        let Stage { plan, .. } = &self.stage;
        let calm_at_ms = plan.calm_at_ms;
        let recurring = [
            (plan.crash_mean_ms, Happening::Dies),
            (plan.jump_mean_ms, Happening::ClockIsSet),
            (plan.jump_mean_ms, Happening::IsSuspended),
            (plan.worker_crash_mean_ms, Happening::AgentDies),
            (plan.freeze_mean_ms, Happening::AgentFreezes),
            (plan.leave_mean_ms, Happening::AgentLeaves),
            (plan.partition_mean_ms, Happening::LinksAreCut),
            (plan.lie_mean_ms, Happening::Lie),
            (plan.replay_mean_ms, Happening::UserWantsAReplay),
        ];
        for (mean_ms, happening) in recurring {
            self.stage.recurring(mean_ms, happening);
        }
        for request in mem::take(&mut self.later) {
            let in_ms = self.stage.dice.between(1_000, calm_at_ms - 1);
            self.stage.later(in_ms, Happening::UserHandsIn(request));
        }
        self.stage.later(0, Happening::Starts);
        self.stage.later(1, Happening::UserActs);
        self.stage.later(calm_at_ms, Happening::Calm);
        for agent in 0..self.agents.len() {
            let in_ms = self.stage.dice.between(1, 5_000);
            self.stage.later(in_ms, Happening::Agent { agent, life: 0, timer: Timer::Start });
        }
    }

    fn happens(&mut self, happening: Happening) {
        if let Some(until_ms) = self.frozen_until_ms(&happening) {
            self.stage.later(until_ms - self.stage.now_ms, happening);
            return;
        }
        let stage = &mut self.stage;
        match happening {
            Happening::Arrives(envelope) => {
                stage.covered.overtaken_messages += u64::from(envelope.sent_at_ms < stage.newest_sent_ms);
                stage.newest_sent_ms = stage.newest_sent_ms.max(envelope.sent_at_ms);
                self.site.arrives(envelope, stage);
            }
            Happening::Answered { sender: Sender::Agent(agent), call, reply } => {
                self.agents[agent].answered(call, reply, stage, &mut self.site);
            }
            Happening::Answered { sender: Sender::User, call, reply } => self.user_is_answered(call, &reply),
            Happening::Answered { sender: Sender::Liar | Sender::Thief, .. } => {}
            Happening::Written { life } => self.site.written(life, stage),
            Happening::Tick { life } => {
                if self.site.tick(life, stage) {
                    stage.later(TICK_MS, Happening::Tick { life });
                }
            }
            Happening::Dies => {
                self.site.dies(stage);
                stage.recurring(stage.plan.crash_mean_ms, Happening::Dies);
            }
            Happening::Starts => self.site.starts(stage),
            Happening::ClockIsSet => {
                self.site.clock_is_set(stage);
                stage.recurring(stage.plan.jump_mean_ms, Happening::ClockIsSet);
            }
            Happening::IsSuspended => {
                self.site.is_suspended(stage);
                stage.recurring(stage.plan.jump_mean_ms, Happening::IsSuspended);
            }
            Happening::Agent { agent, life, timer } => {
                if self.agents[agent].life == life {
                    self.agents[agent].wakes(timer, stage);
                }
            }
            Happening::AgentDies => {
                self.some_agent(|agent, stage| {
                    stage.covered.worker_crashes += 1;
                    agent.dies(stage);
                });
                let mean_ms = self.stage.plan.worker_crash_mean_ms;
                self.stage.recurring(mean_ms, Happening::AgentDies);
            }
            Happening::AgentFreezes => {
                self.some_agent(|agent, stage| {
                    stage.covered.worker_freezes += 1;
                    agent.frozen_until_ms = stage.now_ms + stage.dice.between(1_000, 60_000);
                });
                let mean_ms = self.stage.plan.freeze_mean_ms;
                self.stage.recurring(mean_ms, Happening::AgentFreezes);
            }
            Happening::AgentLeaves => {
                self.some_agent(Agent::leaves);
                let mean_ms = self.stage.plan.leave_mean_ms;
                self.stage.recurring(mean_ms, Happening::AgentLeaves);
            }
            Happening::LinksAreCut => self.links_are_cut(),
            Happening::LinksAreMended(agents) => {
                for agent in agents {
                    self.stage.cut.remove(&agent);
                }
            }
            Happening::Lie => {
                if let Some(envelope) = liar::lie(&self.site, stage) {
                    stage.send(&envelope);
                }
                stage.recurring(stage.plan.lie_mean_ms, Happening::Lie);
            }
            Happening::UserActs => self.user_acts(),
            Happening::UserHandsIn(request) => {
                self.stage.covered.sweeps_handed_in_later += 1;
                self.wishes.push(request);
                self.user_is_awake();
            }
            Happening::UserWantsAReplay => self.user_wants_a_replay(),
            Happening::UserConcludes => self.user_concludes(),
            Happening::Calm => {
                stage.plan.calm();
                stage.cut.clear();
                stage.later(LATE_MS_MAX, Happening::UserConcludes);
            }
        }
    }

    /// When this can be noticed, if its agent is frozen now: it notices everything at once when it thaws.
    fn frozen_until_ms(&self, happening: &Happening) -> Option<u64> {
        let agent = match happening {
            Happening::Agent { agent, .. } | Happening::Answered { sender: Sender::Agent(agent), .. } => {
                *agent
            }
            _ => return None,
        };
        Some(self.agents[agent].frozen_until_ms).filter(|&until_ms| until_ms > self.stage.now_ms)
    }

    fn some_agent(&mut self, change: impl FnOnce(&mut Agent, &mut Stage)) {
        let index = self.stage.dice.below(self.agents.len() as u64) as usize;
        change(&mut self.agents[index], &mut self.stage);
    }

    fn links_are_cut(&mut self) {
        let stage = &mut self.stage;
        let probability = *stage.dice.pick(&[0.2, 0.5, 1.0]);
        let agents: Vec<usize> = (0..self.agents.len()).filter(|_| stage.dice.chance(probability)).collect();
        stage.covered.partitions += u64::from(!agents.is_empty());
        stage.cut.extend(&agents);
        let for_ms = stage.dice.between(1_000, 45_000);
        stage.later(for_ms, Happening::LinksAreMended(agents));
        stage.recurring(stage.plan.partition_mean_ms, Happening::LinksAreCut);
    }

    /// Of a trial that has completed, or of one that may not be there.
    fn user_wants_a_replay(&mut self) {
        let stage = &mut self.stage;
        let some = self.site.oracle.some_completed(&mut stage.dice).filter(|_| stage.dice.chance(0.8));
        let (sweep, trial) = some.unwrap_or((SweepId(0), TrialId(stage.dice.below(6) as u32)));
        self.wishes.push(Request::User(EventKind::ReplayAsked { sweep, trial }));
        if stage.dice.chance(0.05) {
            self.wishes.push(Request::User(EventKind::Cancelled { sweep }));
        }
        stage.recurring(stage.plan.replay_mean_ms, Happening::UserWantsAReplay);
        self.user_is_awake();
    }

    fn user_is_awake(&mut self) {
        if !self.is_user_awake {
            self.user_acts();
        }
    }

    /// The user insists on one wish after the other.
    fn user_acts(&mut self) {
        self.is_user_awake = !self.wishes.is_empty();
        let Some(request) = self.wishes.first().cloned() else { return };
        let stage = &mut self.stage;
        let call = stage.call();
        self.wish_call = Some(call);
        stage.send(&Envelope { sender: Sender::User, call, sent_at_ms: stage.now_ms, request });
        stage.later(ANSWER_MS, Happening::UserActs);
    }

    /// A pause that was late may have come after its end.
    fn user_concludes(&mut self) {
        let sweeps = (0..self.stage.plan.sweeps as u32).map(SweepId);
        self.wishes.extend(sweeps.map(|sweep| Request::User(EventKind::Resumed { sweep })));
        self.stage.later(0, Happening::UserActs);
    }

    fn user_is_answered(&mut self, call: Call, reply: &Reply) {
        if self.wish_call != Some(call) {
            self.stage.covered.answers_nobody_waited_for += 1;
            return;
        }
        self.wish_call = None;
        let is_absent = |refusal: &Refusal| {
            matches!(refusal, Refusal::UnknownSweep(_) | Refusal::UnknownTrial(_) | Refusal::NotCompleted(_))
        };
        let is_done = match reply {
            Reply::Refused(refusal) if is_absent(refusal) => {
                self.stage.covered.replays_refused += 1;
                true
            }
            Reply::Decided(_) | Reply::Refused(Refusal::NameTaken(_) | Refusal::SweepEnded(_)) => true,
            _ => false,
        };
        assert!(is_done, "the user was refused: {reply:?}");
        self.wishes.remove(0);
    }
}
