//! `after`: instances that need others. What is named must exist, and no chain may lead back to where it began.

use std::collections::BTreeMap;

use mcp_daemon::addr::Route;

use super::ConfigProblem;
use super::settings::Settings;

/// Refuses names that nobody has, and circles; each instance comes with its key.
pub(super) fn check(all: &BTreeMap<Route, (String, Settings)>) -> Result<(), ConfigProblem> {
    let needs: BTreeMap<&str, Vec<&str>> = all
        .iter()
        .map(|(name, (_, settings))| (name.as_str(), settings.after.iter().map(String::as_str).collect()))
        .collect();
    for (name, (key, _)) in all {
        let problem = |what: String| Err(ConfigProblem::key(format!("{key}.after"), what));
        if let Some(missing) = needs[name.as_str()].iter().find(|needed| !needs.contains_key(*needed)) {
            return problem(format!("there is no instance `{missing}`"));
        }
        if let Some(circle) = circle(name.as_str(), &needs) {
            return problem(format!("`{}` need each other; remove one", circle.join("` after `")));
        }
    }
    Ok(())
}

/// A chain of needs from `name` back to itself.
fn circle<'a>(name: &'a str, needs: &BTreeMap<&'a str, Vec<&'a str>>) -> Option<Vec<&'a str>> {
    let mut seen = vec![name];
    // Chains that may still be continued; each instance is continued once.
    let mut chains = vec![vec![name]];
    while let Some(chain) = chains.pop() {
        for &needed in needs.get(chain.last()?)? {
            if needed == name {
                return Some([chain, vec![name]].concat());
            }
            if !seen.contains(&needed) {
                seen.push(needed);
                chains.push([chain.clone(), vec![needed]].concat());
            }
        }
    }
    None
}
