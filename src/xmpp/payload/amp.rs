//! Advanced message processing (XEP-0079): the rule that keeps an offer from being stored.

use minidom::Element;

use super::builder;

const AMP: &str = "http://jabber.org/protocol/amp";

/// Asks a server not to store the message and to deliver it to this resource only, as Gabble asks
/// beside each tube's offer and close. Peers without a server between them ignore it.
pub fn not_stored() -> Element {
    let rule = |condition: &str, value: &str| {
        builder("rule", AMP)
            .attr("condition", condition)
            .attr("value", value)
            .attr("action", "error")
            .build()
    };
    builder("amp", AMP)
        .child(rule("deliver-at", "stored"))
        .child(rule("match-resource", "exact"))
        .build()
}

#[cfg(test)]
mod tests {
    use crate::xmpp::xml::parse_element;

    #[test]
    fn it_is_what_gabble_writes() {
        let gabble = parse_element(
            "<amp xmlns='http://jabber.org/protocol/amp'>\
             <rule condition='deliver-at' value='stored' action='error'/>\
             <rule condition='match-resource' value='exact' action='error'/></amp>",
        );
        assert_eq!(gabble, Ok(super::not_stored()));
    }
}
