use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

/// A shell script as the server; ended with its children when dropped.
struct Server(Child);

impl Server {
    fn start(script: &str) -> Self {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0).stdout(Stdio::null()).stdin(Stdio::piped());
        Server(command.spawn().unwrap())
    }

    fn pulse(&self) -> Pulse {
        Pulse::new(self.0.id())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(-(self.0.id() as i32)), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Looks until the sign is the expected one; a look is a fact, but a process needs its time to get there.
async fn until(pulse: &mut Pulse, expected: impl Fn(Sign) -> bool) -> Sign {
    let looked = async {
        loop {
            let sign = pulse.look();
            if expected(sign) {
                return sign;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looked).await.expect("the sign never came")
}

#[tokio::test]
async fn a_server_that_waits_is_quiet_and_one_that_is_stopped_is_seen_to_be() {
    let server = Server::start("read nothing");
    let mut pulse = server.pulse();
    until(&mut pulse, |sign| sign == Sign::Quiet).await;
    server.signal(Signal::SIGSTOP);
    until(&mut pulse, |sign| sign == Sign::Stopped).await;
    server.signal(Signal::SIGCONT);
    until(&mut pulse, |sign| sign == Sign::Quiet).await;
}

#[tokio::test]
async fn a_server_behind_a_wrapper_is_seen_as_well() {
    let server = Server::start("sleep 1000; true");
    let child = loop {
        let table = table();
        if let [_, child] = members(&table, server.0.id() as i32)[..] {
            break child.pid;
        }
        tokio::task::yield_now().await;
    };
    let mut pulse = server.pulse();
    until(&mut pulse, |sign| sign == Sign::Quiet).await;
    kill(Pid::from_raw(child), Signal::SIGSTOP).unwrap();
    until(&mut pulse, |sign| sign == Sign::Stopped).await;
}

#[tokio::test]
async fn a_server_that_computes_works() {
    let server = Server::start("while :; do :; done");
    let mut pulse = server.pulse();
    let sign = until(&mut pulse, |sign| sign == Sign::Working("it computes")).await;
    assert_ne!(sign, Sign::Quiet);
    // Stopped, it does not compute, whatever it did before.
    server.signal(Signal::SIGSTOP);
    until(&mut pulse, |sign| sign == Sign::Stopped).await;
}

#[tokio::test]
async fn a_server_that_waits_for_a_child_born_since_its_last_answer_works() {
    let mut server = Server::start("read go; sleep 1000; read nothing");
    let mut pulse = server.pulse();
    until(&mut pulse, |sign| sign == Sign::Quiet).await;
    // Two ticks of the clock by which /proc dates a birth.
    tokio::time::sleep(Duration::from_millis(30)).await;
    std::io::Write::write_all(server.0.stdin.as_mut().unwrap(), b"go\n").unwrap();
    until(&mut pulse, |sign| sign == Sign::Working("it waits for a process that it started")).await;
    // An answer while the child lives shows that the server does not wait for it.
    tokio::time::sleep(Duration::from_millis(30)).await;
    pulse.answered();
    until(&mut pulse, |sign| sign == Sign::Quiet).await;
}

#[test]
fn little_work_is_none() {
    let second = Duration::from_secs(1);
    assert!(!is_work(0, second) && !is_work(1, Duration::from_millis(10)), "what a timer costs");
    assert!(is_work(2, second) && !is_work(2, 2 * second));
    // A blocked Serena 1.7: 2 ticks in 6 s. A regular expression in 2.1: 746 in 7.8.
    assert!(!is_work(2, 6 * second) && is_work(746, 8 * second));
}

#[test]
fn the_cpu_time_of_ended_children_is_in_the_sum() {
    let stat = b"7 (a) b) S 4 5 6 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 4711 9 12\n";
    let one = parse(7, stat).unwrap();
    assert_eq!((one.parent, one.state, one.used, one.start), (4, b'S', 100, 4711));
    assert!(parse(7, b"7 (gone) Z 4 5 6 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 4711 9 12\n").is_none());
    assert!(parse(7, b"7 (short) S 1").is_none());
}

#[test]
fn our_own_birth_is_in_the_past() {
    let now = ticks_since_boot().unwrap();
    let own = parse(0, &fs::read("/proc/self/stat").unwrap()).unwrap();
    assert!(own.start <= now && now - own.start < 3600 * TICKS);
}
