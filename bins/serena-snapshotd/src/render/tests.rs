use serde_json::json;

use super::*;

#[test]
fn sizes_are_read_at_a_glance() {
    let sizes = [0, 1023, 1024, 1536, (1 << 20) - 1, 5 << 20, 3 << 30, 7 << 40, u64::MAX / 16];
    let shown = sizes.map(size);
    assert_eq!(
        shown[..8],
        ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1023.9 KiB", "5.0 MiB", "3.0 GiB", "7.0 TiB"]
    );
    assert!(shown[8].ends_with(" TiB"));
}

#[test]
fn a_list_is_aligned_and_says_what_is_special() {
    let row = |seq: u64, place: &str, pinned: Option<&str>, bytes: u64| {
        json!({
            "id": format!("{seq:010}-000001-0123456789abcdef"), "seq": seq, "created": "2026-11-21T10:00:00.5Z",
            "files": seq * 100, "bytes": bytes, "place": place, "pinned": pinned,
        })
    };
    let unreadable = json!({
        "id": "0000000001-000002-0123456789abcdef", "seq": 1, "created": null, "files": null, "bytes": null,
        "place": "fork", "pinned": null, "problem": "cut\noff",
    });
    let table = list(&json!([unreadable]), "2026-11-21T10:02:00.5Z".parse().unwrap());
    assert_eq!(
        table.lines().skip(1).collect::<Vec<_>>(),
        [
            "     1  -       -      -     -  fork, cannot be read  0000000001-000002-0123456789abcdef",
            "0000000001-000002-0123456789abcdef: cut off",
        ]
    );
    let rows = json!([
        row(12, "newest", None, 5 << 20),
        row(2, "ancestor", Some("pin"), 9),
        row(1, "fork", None, 2048)
    ]);
    let table = list(&rows, "2026-11-21T10:02:00.5Z".parse().unwrap());
    assert_eq!(
        table,
        "NUMBER  MADE                    AGE  FILES     SIZE  WHAT    ID\n\
         \x20   12  2026-11-21 10:00:00Z  2 min   1200  5.0 MiB  newest  0000000012-000001-0123456789abcdef\n\
         \x20    2  2026-11-21 10:00:00Z  2 min    200      9 B  pinned  0000000002-000001-0123456789abcdef\n\
         \x20    1  2026-11-21 10:00:00Z  2 min    100  2.0 KiB  fork    0000000001-000001-0123456789abcdef\n"
    );
}

#[test]
fn a_status_says_what_is_wrong() {
    let base = json!({
        "version": "0.1.0", "pid": 1, "uptime_seconds": 7200, "draining": false, "enabled": true, "home": "/h", "roots": {},
        "store": "file:///s", "partition": "a", "encrypted": false, "standing": "current", "working": null,
        "last": { "outcome": "published", "id": "x", "files": 3, "bytes": 2048, "sent": 100, "took_ms": 12.3 },
        "last_success_age_seconds": 5, "next_in_seconds": 175, "last_error": null, "failures": 0, "complaints": [],
    });
    assert_eq!(
        status(&base),
        "serena-snapshotd 0.1.0, pid 1, up 2 h\n\
         home       /h\n\
         store      file:///s, partition a\n\
         state      well: the home descends from the newest snapshot\n\
         last       5 s ago, published x: 3 files, 2.0 KiB, 100 B sent in 13 ms\n\
         next       in 175 s\n"
            .replace("in 175 s", "in 2 min")
    );
    let mut bad = base;
    bad["standing"] = "fenced".into();
    bad["last_error"] = "read HEAD of s3://b/p/a: 503\n\u{1b}[2J".into();
    bad["failures"] = 4.into();
    bad["complaints"] = json!(["fenced: another daemon has taken over this partition"]);
    let shown = status(&bad);
    assert!(shown.contains("state      fenced") && shown.contains("(4 in a row)"), "{shown}");
    assert!(shown.contains("LOOK       fenced") && !shown.contains('\u{1b}'), "{shown}");
    let off = status(&json!({ "version": "0.1.0", "pid": 1, "enabled": false, "why": "X is off" }));
    assert!(off.contains("off: X is off"), "{off}");
}

#[test]
fn an_outcome_is_one_sentence() {
    for (value, expected) in [
        (json!({ "outcome": "unchanged", "id": "x" }), "unchanged: x holds the same"),
        (
            json!({ "outcome": "published", "id": "x", "files": 1, "bytes": 9, "sent": 2048, "took_ms": 41.7, "unsettled": 0 }),
            "published x: 1 file, 9 B, 2.0 KiB sent in 42 ms",
        ),
        (json!({ "outcome": "forked", "id": "x", "files": 2, "bytes": 9 }), "kept as fork x: 2 files, 9 B"),
    ] {
        assert_eq!(outcome(&value), expected);
    }
    let shown = restored(
        &json!({ "outcome": "restored", "id": "x", "files": 2, "bytes": 9, "kept": ["/h.before-restore"] }),
        "/h",
        "s",
    );
    assert_eq!(shown, "restored x into /h: 2 files, 9 B\nwhat was there before is in /h.before-restore");
    let shown = restored(
        &json!({
            "outcome": "restored", "id": "x", "files": 2, "bytes": 9, "kept": [],
            "passed_over": [{ "id": "0000000012-000001-0123456789abcdef", "why": "cut\u{1b} off" }],
            "left_alone": ["/srv/web/.serena"],
        }),
        "/h",
        "s",
    );
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[1].starts_with("/srv/web/.serena is not empty and was left alone"), "{shown}");
    assert_eq!(lines[2], "damaged, passed over: 0000000012-000001-0123456789abcdef: cut  off");
    assert_eq!(
        pruned(&json!({ "snapshots": ["x"], "objects": 2, "bytes": 1024, "dry_run": true })),
        "would delete x\nwould delete 2 objects, 1.0 KiB"
    );
}
