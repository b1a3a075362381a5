use super::super::outlet::Item;
use super::*;

fn enter(desk: &mut Desk, body: &str) -> Result<Entered, Refused> {
    let body = Bytes::from(body.to_owned());
    let envelope = Envelope::parse(&body).unwrap();
    desk.enter(&envelope, &body, true)
}

fn hear(desk: &mut Desk, line: &str) -> Heard {
    desk.hear(&Bytes::from(line.to_owned()))
}

async fn text(intake: &mut Intake) -> String {
    match intake.next().await.unwrap() {
        Item::Answer(text) | Item::Message(text) => String::from_utf8(text.to_vec()).unwrap(),
    }
}

const PROGRESS: &str = r#"{"method":"notifications/progress","params":{"progressToken":"p","progress":1}}"#;
const LOG: &str = r#"{"method":"notifications/message","params":{}}"#;
const ASKS: &str = r#"{"id":9,"method":"roots/list"}"#;

#[tokio::test]
async fn progress_goes_to_its_request_and_the_rest_to_the_listener() {
    let mut desk = Desk::new(false);
    let mut first =
        enter(&mut desk, r#"{"id":1,"method":"tools/call","params":{"_meta":{"progressToken":"p"}}}"#)
            .unwrap();
    let mut second = enter(&mut desk, r#"{"id":2,"method":"tools/call"}"#).unwrap();
    assert_eq!(hear(&mut desk, PROGRESS), Heard::Delivered);
    assert_eq!(text(&mut first.intake).await, PROGRESS);
    assert_eq!(hear(&mut desk, LOG), Heard::Delivered);
    assert_eq!(text(&mut second.intake).await, LOG, "without a listener the newest open request gets it");
    let mut listener = desk.listen();
    assert_eq!(hear(&mut desk, ASKS), Heard::Delivered);
    assert_eq!(text(&mut listener).await, ASKS);
}

#[tokio::test]
async fn progress_of_a_request_that_takes_no_messages_is_no_other_requests() {
    let mut desk = Desk::new(false);
    let body = Bytes::from_static(br#"{"id":1,"method":"x","params":{"_meta":{"progressToken":"p"}}}"#);
    let _first = desk.enter(&Envelope::parse(&body).unwrap(), &body, false).unwrap();
    let mut second = enter(&mut desk, r#"{"id":2,"method":"tools/call"}"#).unwrap();
    assert_eq!(hear(&mut desk, PROGRESS), Heard::Delivered, "kept for a listener");
    assert_eq!(hear(&mut desk, LOG), Heard::Delivered);
    assert_eq!(text(&mut second.intake).await, LOG);
    assert_eq!(text(&mut desk.listen()).await, PROGRESS);
}

#[tokio::test]
async fn messages_wait_for_the_listener_within_bounds() {
    let mut desk = Desk::new(false);
    for _ in 0..MAX_HELD {
        assert_eq!(hear(&mut desk, LOG), Heard::Delivered);
    }
    assert_eq!(hear(&mut desk, LOG), Heard::Dropped);
    assert!(
        matches!(hear(&mut desk, ASKS), Heard::Reply(error) if error.starts_with(b"{\"jsonrpc\":\"2.0\",\"id\":9,"))
    );
    let mut listener = desk.listen();
    assert_eq!(text(&mut listener).await, LOG);
    let _second = desk.listen();
    for _ in 1..MAX_HELD {
        text(&mut listener).await;
    }
    assert_eq!(listener.next().await, Err(End::Finished), "a new stream ends the old one");
}

#[tokio::test]
async fn strangers_on_a_shared_desk_keep_their_own_ids_and_hear_only_their_own() {
    let mut desk = Desk::new(true);
    let body = r#"{"id":1,"method":"tools/call","params":{"_meta":{"progressToken":1}}}"#;
    let mut one = enter(&mut desk, body).unwrap();
    let mut two = enter(&mut desk, body).unwrap();
    assert_eq!(
        two.message,
        r#"{"id":"s-2","method":"tools/call","params":{"_meta":{"progressToken":"s-2"}}}"#
    );
    let progress = r#"{"method":"notifications/progress","params":{"progressToken":"s-2","progress":1}}"#;
    assert_eq!(hear(&mut desk, progress), Heard::Delivered);
    assert_eq!(hear(&mut desk, LOG), Heard::Dropped);
    assert!(matches!(hear(&mut desk, ASKS), Heard::Reply(_)));
    assert_eq!(hear(&mut desk, r#"{"id":"s-1","result":{}}"#), Heard::Delivered);
    assert_eq!(text(&mut one.intake).await, r#"{"id":1,"result":{}}"#);
    assert_eq!(text(&mut two.intake).await, progress.replace(r#""s-2""#, "1"));
    let cancelled = desk.leave(&two.key).unwrap();
    assert!(cancelled.ends_with(br#""params":{"requestId":"s-2"}}"#));
    assert_eq!(desk.in_flight(), 0);
}

#[tokio::test]
async fn a_subscription_is_named_as_its_client_named_it() {
    let mut desk = Desk::new(true);
    let mut listen =
        enter(&mut desk, r#"{"id":"mine","method":"subscriptions/listen","params":{}}"#).unwrap();
    let event = r#"{"method":"x","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s-1"}}}"#;
    assert_eq!(hear(&mut desk, event), Heard::Delivered);
    assert_eq!(text(&mut listen.intake).await, event.replace("s-1", "mine"));
}

#[tokio::test]
async fn an_id_in_use_is_refused_until_it_is_answered() {
    let mut desk = Desk::new(false);
    let first = enter(&mut desk, r#"{"id":1,"method":"a"}"#).unwrap();
    assert_eq!(enter(&mut desk, r#"{"id":1.0,"method":"b"}"#).err(), Some(Refused::Duplicate));
    drop(first);
    assert!(!desk.is_awaited() && desk.in_flight() == 1, "the server still works on it");
    assert_eq!(enter(&mut desk, r#"{"id":1,"method":"b"}"#).err(), Some(Refused::Duplicate));
    assert_eq!(hear(&mut desk, r#"{"id":1,"result":"late"}"#), Heard::Delivered);
    let mut second = enter(&mut desk, r#"{"id":1,"method":"b"}"#).unwrap();
    assert_eq!(hear(&mut desk, r#"{"id":1,"result":"new"}"#), Heard::Delivered);
    assert_eq!(text(&mut second.intake).await, r#"{"id":1,"result":"new"}"#);
}

#[tokio::test]
async fn an_answer_that_cannot_be_passed_on_is_an_error_with_its_id() {
    let mut desk = Desk::new(false);
    let mut call = enter(&mut desk, r#"{"id":"x","method":"a"}"#).unwrap();
    let deep = format!(r#"{{"id":"x","result":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    assert_eq!(hear(&mut desk, &deep), Heard::Delivered);
    assert!(text(&mut call.intake).await.starts_with(r#"{"jsonrpc":"2.0","id":"x","error""#));
    assert_eq!(hear(&mut desk, "Loading model..."), Heard::Junk);
    assert_eq!(hear(&mut desk, r#"{"id":77,"result":1}"#), Heard::Dropped);
}

#[tokio::test]
async fn the_end_breaks_every_wait_and_refuses_the_next() {
    let mut desk = Desk::new(false);
    let mut call = enter(&mut desk, r#"{"id":1,"method":"a"}"#).unwrap();
    let mut listener = desk.listen();
    assert_eq!(desk.end(End::Finished), 1);
    assert_eq!(call.intake.next().await, Err(End::Broken));
    assert_eq!(listener.next().await, Err(End::Finished));
    assert_eq!(enter(&mut desk, r#"{"id":2,"method":"a"}"#).err(), Some(Refused::Ended));
    assert_eq!(desk.listen().next().await, Err(End::Broken));
}

#[tokio::test]
async fn a_cancelled_request_can_be_given_up() {
    let mut desk = Desk::new(false);
    let mut call = enter(&mut desk, r#"{"id":1,"method":"a"}"#).unwrap();
    desk.give_up(&call.key);
    assert!(text(&mut call.intake).await.contains("Request cancelled"));
    assert_eq!(hear(&mut desk, r#"{"id":1,"result":1}"#), Heard::Dropped);
}
