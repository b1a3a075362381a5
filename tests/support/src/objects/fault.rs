//! What goes wrong, and when.

use std::fmt;

use super::asked::Asked;

/// One planned misbehaviour.
pub struct Fault {
    fits: Box<dyn Fn(&Asked) -> bool + Send>,
    left: usize,
    what: What,
}

/// How one request goes wrong.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum What {
    /// It is done, and the connection is reset instead of an answer.
    CutAfter,
    /// It comes whole, is not done, and the connection is reset.
    CutBefore,
    /// It is done, and the connection is reset in the middle of the answer's body (of its head, if that is all there is).
    CutInside,
    /// The connection is reset once the head has come; nothing is done.
    CutUnread,
    /// It is done, and the answer ends in the middle of its body (or head), before the length it promised.
    EndInside,
    /// Refused with this status and code of S3, such as `(503, "SlowDown")`; nothing is done.
    Error(u16, &'static str),
    /// It is done, and answered like [`What::Error`] all the same.
    ErrorAfter(u16, &'static str),
    /// Nothing is done, and the answer is 200 with an error of S3 as its body, as real S3 does it for slow completions.
    ErrorInside,
    /// It is done, and one bit in the middle of the answer's body is wrong.
    Flipped,
    /// Nothing is done, and the answer is a page of HTML with this status, as of a captive portal.
    Html(u16),
    /// Nothing happens until [`super::Objects::release`]; then it is done and answered, whoever still listens.
    Late,
    /// A listing does not show what the last so many writes have stored; other requests go well.
    ListWithout(usize),
    /// It is done at once, and answered after [`super::Objects::release`].
    Mute,
    /// It is done, and more bytes than were promised follow the answer.
    Overlong,
    /// It is done, and the answer's body has more bytes than it should; its length says so too.
    Padded,
}

impl What {
    /// Every way that ends by itself; [`What::Late`] and [`What::Mute`] need somebody to release them.
    pub const ALL: [What; 24] = [
        What::Error(400, "InvalidRequest"),
        What::Error(403, "AccessDenied"),
        What::Error(404, "NoSuchBucket"),
        What::Error(409, "ConditionalRequestConflict"),
        What::Error(412, "PreconditionFailed"),
        What::Error(429, "TooManyRequests"),
        What::Error(500, "InternalError"),
        What::Error(501, "NotImplemented"),
        What::Error(503, "SlowDown"),
        What::Error(507, "XMinioStorageFull"),
        What::ErrorAfter(500, "InternalError"),
        What::ErrorAfter(503, "SlowDown"),
        What::ErrorInside,
        What::CutUnread,
        What::CutBefore,
        What::CutAfter,
        What::CutInside,
        What::EndInside,
        What::Flipped,
        What::Padded,
        What::Overlong,
        What::Html(200),
        What::Html(404),
        What::Html(502),
    ];
}

impl Fault {
    /// At the request with this number, from 1.
    pub fn at(number: usize, what: What) -> Fault {
        Fault::when(move |asked| asked.number == number, what)
    }

    /// At this request and all that follow.
    pub fn from(number: usize, what: What) -> Fault {
        Fault::when(move |asked| asked.number >= number, what)
    }

    /// At every request.
    pub fn always(what: What) -> Fault {
        Fault::when(|_| true, what)
    }

    /// At every request that fits.
    pub fn when(fits: impl Fn(&Asked) -> bool + Send + 'static, what: What) -> Fault {
        Fault { fits: Box::new(fits), left: usize::MAX, what }
    }

    /// Only the first so many times that it fits.
    pub fn times(self, times: usize) -> Fault {
        Fault { left: times, ..self }
    }

    /// What this request meets, if this is its fault.
    pub(super) fn meets(&mut self, asked: &Asked) -> Option<What> {
        if self.left == 0 || !(self.fits)(asked) {
            return None;
        }
        self.left = self.left.saturating_sub(1);
        Some(self.what)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Fault").field("left", &self.left).field("what", &self.what).finish_non_exhaustive()
    }
}
