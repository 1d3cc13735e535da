//! The profile: our key, whom we trust, what is kept; and the clock that their dates come from.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Finding;
use crate::{
    cli::{app::App, text::fingerprint},
    inspection,
};

/// The beginning of 2026, in seconds since 1970: there was no Pneuma before.
const BEGINNING: u64 = 1_767_225_600;

/// The checks; `in_use`: the profile is in use by the connection manager, as it should be.
pub(super) async fn look(app: &App, in_use: bool) -> Vec<Finding> {
    let (profile, now) = (app.account.profile().to_owned(), app.clock.wall());
    let name = profile.clone();
    let look = smol::unblock(move || inspection::profile(&name, now)).await;
    let mut found = Vec::new();
    if let (Some(place), true) = (&look.place, look.wrong.is_empty()) {
        found.push(match &look.fingerprint {
            Some(key) => Finding::good(
                "profile",
                format!(
                    "{} is private and whole, with {} contacts and the key {}",
                    place.display(),
                    look.contacts,
                    fingerprint(key)
                ),
            ),
            None => Finding::good(
                "profile",
                format!("the profile {profile} has no key yet; the first command that needs one makes it"),
            ),
        });
    }
    for (what, todo) in look.wrong {
        found.push(Finding::wrong("profile", what, todo));
    }
    for aside in look.aside {
        found.push(Finding::note(
            "kept",
            format!(
                "a record of kept tubes could not be understood and lies at {}",
                aside.display()
            ),
            "make the tubes anew and remove it",
        ));
    }
    if let (Some(process), false) = (look.locked_by, in_use) {
        let own = std::fs::read_link(format!("/proc/{process}/exe"));
        let program = own.map_or_else(
            |_| "a program".to_owned(),
            |path| path.display().to_string(),
        );
        found.push(Finding::wrong(
            "profile-lock",
            format!("the profile {profile} is in use by process {process} ({program}), which is not the connection manager of this session's account"),
            "end it, or take another profile with --profile",
        ));
    }
    found.push(clock(now));
    found
}

fn clock(now: SystemTime) -> Finding {
    if now < UNIX_EPOCH + Duration::from_secs(BEGINNING) {
        Finding::wrong(
            "clock",
            "this machine's clock is years behind",
            "set the clock",
        )
    } else {
        Finding::good("clock", "this machine's clock is in this age")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_clock_from_before_this_program_is_wrong() {
        let at = |seconds| clock(UNIX_EPOCH + Duration::from_secs(seconds)).verdict;
        assert_eq!(at(0), Verdict::Wrong);
        assert_eq!(at(BEGINNING), Verdict::Good);
    }
}
