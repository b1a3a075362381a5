//! What may be sent again when nobody knows whether it ran (DESIGN, "What may be sent again").

use crate::mcp::Envelope;
use crate::session::memory::Tools;

/// What is known of the effect of sending a request twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Twice {
    /// Does no harm.
    Harmless,
    /// May do something twice.
    Harmful,
    /// A tool of which we have not read the annotations yet.
    Unknown,
}

/// Whether a method has no effect, by the specification.
pub fn is_harmless_method(method: &str) -> bool {
    matches!(method, "prompts/get" | "ping" | "completion/complete" | "server/discover" | "logging/setLevel")
        || matches!(method, "resources/subscribe" | "resources/unsubscribe")
        || method.ends_with("/list")
        || method.ends_with("/read")
}

/// Judges a request by its method, and a tool call by the tool's annotations, if those are trusted.
pub fn judge(method: &str, tool: Option<&str>, tools: Option<&Tools>, trust_annotations: bool) -> Twice {
    if is_harmless_method(method) {
        return Twice::Harmless;
    }
    if method != "tools/call" || !trust_annotations {
        return Twice::Harmful;
    }
    match (tool, tools) {
        (Some(tool), Some(tools)) if tools.harmless.contains(tool) => Twice::Harmless,
        (Some(_), None) => Twice::Unknown,
        (Some(_), Some(tools)) if !tools.complete => Twice::Unknown,
        _ => Twice::Harmful,
    }
}

/// The tool that a `tools/call` names.
pub fn tool_of(envelope: &Envelope<'_>) -> Option<Box<str>> {
    if envelope.method() == "tools/call" { envelope.tool().map(Into::into) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let tools = Tools { harmless: ["read".into()].into(), complete: true, digest: "".into() };
        let partly = Tools { complete: false, ..tools.clone() };
        for method in [
            "tools/list",
            "resources/read",
            "resources/templates/list",
            "prompts/get",
            "ping",
            "completion/complete",
        ] {
            assert_eq!(judge(method, None, None, false), Twice::Harmless, "{method}");
        }
        assert_eq!(judge("tools/call", Some("read"), Some(&tools), true), Twice::Harmless);
        assert_eq!(judge("tools/call", Some("read"), Some(&tools), false), Twice::Harmful);
        assert_eq!(judge("tools/call", Some("write"), Some(&tools), true), Twice::Harmful);
        assert_eq!(judge("tools/call", Some("write"), Some(&partly), true), Twice::Unknown);
        assert_eq!(judge("tools/call", Some("write"), None, true), Twice::Unknown);
        assert_eq!(judge("tools/call", None, Some(&tools), true), Twice::Harmful);
        assert_eq!(judge("tasks/cancel", None, Some(&tools), true), Twice::Harmful);
    }
}
