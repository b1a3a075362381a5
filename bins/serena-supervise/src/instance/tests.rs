use std::os::unix::process::ExitStatusExt;

use tokio::process::Command;

use super::*;

fn instance() -> Arc<Instance> {
    let roots = Roots { owner: "one".into(), runtime: "/nonexistent".into(), bound: Vec::new() };
    let fresh = Fresh { generation: String::new(), deadline: Duration::ZERO };
    Instance::new("one".parse().unwrap(), roots, Settings::default(), fresh, Arc::default())
}

#[tokio::test]
async fn a_signal_is_handed_on_to_a_server_and_not_to_a_number_that_may_be_somebody_elses() {
    let running = [Event::Wake, Event::Prepared, Event::Started];
    for (events, ended_by) in [(&[][..], Signal::SIGUSR1), (&[Event::Broke], Signal::SIGTERM)] {
        let instance = instance();
        running.iter().chain(events).for_each(|event| instance.tell(*event));
        let mut process = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
        let pid = process.id().unwrap();
        instance.update(|board| board.pid = Some(pid));
        instance.signal(Signal::SIGUSR1);
        // Of two signals that wait, the one with the lower number is obeyed.
        kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
        assert_eq!(process.wait().await.unwrap().signal(), Some(ended_by as i32), "{events:?}");
    }
}
