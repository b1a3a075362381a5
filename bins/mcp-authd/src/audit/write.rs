//! A line as text. By hand, because there is one for every request: serde_json with jiff costs three times as much. A test
//! holds it to what serde_json writes.

use std::cell::Cell;
use std::io::Write;
use std::net::IpAddr;

use jiff::Timestamp;

use super::line::Line;

const MEMORY: &str = "memory takes it all";

impl Line<'_> {
    /// Appends the line as JSON, with its end. Time is written to the millisecond, `ms` to the microsecond: finer than that
    /// nobody measures them.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":");
        time(out, self.time);
        text(out, b",\"subject\":", self.subject.as_deref());
        text(out, b",\"token\":", self.token.as_deref());
        if let Some(address) = self.address {
            out.extend_from_slice(b",\"address\":\"");
            place(out, address);
            out.push(b'"');
        }
        text(out, b",\"route\":", self.route.as_deref());
        text(out, b",\"http\":", Some(&self.http));
        text(out, b",\"method\":", Some(&*self.method).filter(|method| !method.is_empty()));
        text(out, b",\"name\":", Some(&*self.name).filter(|name| !name.is_empty()));
        out.extend_from_slice(b",\"status\":");
        number(out, self.status.into());
        out.extend_from_slice(b",\"bytes\":");
        number(out, self.bytes);
        out.extend_from_slice(b",\"ms\":");
        milliseconds(out, self.ms);
        text(out, b",\"reason\":", self.reason.as_deref());
        if self.cut {
            out.extend_from_slice(b",\"cut\":true");
        }
        out.extend_from_slice(b"}\n");
    }
}

/// A member whose value is a text; nothing if there is none.
fn text(out: &mut Vec<u8>, name: &[u8], text: Option<&str>) {
    let Some(text) = text else { return };
    out.extend_from_slice(name);
    // Without an early end: that is several bytes at a time.
    let is_plain =
        text.bytes().fold(true, |all, byte| all & (byte >= b' ') & (byte != b'"') & (byte != b'\\'));
    if is_plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect(MEMORY);
    }
}

fn place(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                number(out, octet.into());
            }
        }
        IpAddr::V6(address) => write!(out, "{address}").expect(MEMORY),
    }
}

fn number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[begin..]);
}

fn milliseconds(out: &mut Vec<u8>, ms: f64) {
    let micros = (ms * 1000.0).round() as u64;
    number(out, micros / 1000);
    fraction(out, (micros % 1000) as u32);
    if micros.is_multiple_of(1000) {
        // As serde_json writes a number that need not be whole.
        out.extend_from_slice(b".0");
    }
}

/// Thousandths, without the zeros at their end; nothing of 0.
fn fraction(out: &mut Vec<u8>, thousandths: u32) {
    if thousandths > 0 {
        let digits = [100, 10, 1].map(|unit| b'0' + (thousandths / unit % 10) as u8);
        let zeros = digits.iter().rev().take_while(|digit| **digit == b'0').count();
        out.push(b'.');
        out.extend_from_slice(&digits[..digits.len() - zeros]);
    }
}

/// A second since 1970, and its text without the `Z`: most lines are of the same second as the one before.
#[derive(Clone, Copy)]
struct Second {
    number: i64,
    text: [u8; 19],
}

thread_local! {
    static LAST: Cell<Second> = const { Cell::new(Second { number: -1, text: [0; 19] }) };
}

fn time(out: &mut Vec<u8>, time: Timestamp) {
    let (number, thousandths) = (time.as_second(), time.subsec_millisecond());
    if number < 0 || thousandths < 0 {
        // A clock that is decades wrong.
        return write!(out, "\"{time}\"").expect(MEMORY);
    }
    let mut second = LAST.get();
    if second.number != number {
        let spelt = Timestamp::from_second(number).unwrap_or(time).to_string();
        let text = *spelt.as_bytes().first_chunk().expect("RFC 3339 has 19 characters before a fraction");
        second = Second { number, text };
        LAST.set(second);
    }
    out.push(b'"');
    out.extend_from_slice(&second.text);
    fraction(out, thousandths.unsigned_abs());
    out.extend_from_slice(b"Z\"");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_and_times_end_where_they_say_no_more() {
        let written = |write: fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(|out| number(out, u64::MAX)), u64::MAX.to_string());
        assert_eq!(written(|out| milliseconds(out, 0.0)), "0.0");
        assert_eq!(written(|out| milliseconds(out, 1.05)), "1.05");
        assert_eq!(written(|out| milliseconds(out, 7.0)), "7.0");
        assert_eq!(written(|out| time(out, Timestamp::UNIX_EPOCH)), "\"1970-01-01T00:00:00Z\"");
        assert_eq!(
            written(|out| time(out, "1969-12-31T23:59:59.5Z".parse().unwrap())),
            "\"1969-12-31T23:59:59.5Z\""
        );
    }

    proptest! {
        #[test]
        fn a_line_is_what_serde_json_writes(
            (millis, micros) in (0..253_402_300_799_000_i64, 0..10_000_000_000_u64),
            texts in prop::collection::vec(prop::option::of(".{0,12}"), 4),
            (http, method, name) in ("[A-Z]{1,6}", ".{0,9}", ".{0,9}"),
            address in any::<Option<IpAddr>>(),
            (status, bytes, cut) in any::<(u16, u64, bool)>(),
        ) {
            let given = |at: usize| texts[at].as_deref().map(Into::into);
            let line = Line {
                time: Timestamp::from_millisecond(millis).unwrap(),
                subject: given(0),
                token: given(1),
                address,
                route: given(2),
                http: http.into(),
                method: method.into(),
                name: name.into(),
                status,
                bytes,
                ms: micros as f64 / 1000.0,
                reason: given(3),
                cut,
            };
            let mut written = Vec::new();
            line.write_to(&mut written);
            let expected = serde_json::to_string(&line).unwrap() + "\n";
            prop_assert_eq!(String::from_utf8(written).unwrap(), expected);
        }
    }
}
