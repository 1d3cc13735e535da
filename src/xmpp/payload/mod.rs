//! What stanzas carry: one file for each specification.
//!
//! Everything is read leniently where peers differ (order, unknown children, unknown attributes) and
//! strictly where a bound or a meaning is at stake; each reader says what it refuses.

use minidom::Element;
use rxml::{Namespace, NcName};

pub mod amp;
pub mod bytestreams;
pub mod disco;
pub mod pneuma;
pub mod si;
pub mod tube;

/// A payload that cannot be understood; answered with `bad-request`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Builds an element with attributes named by plain strings.
pub(crate) struct Builder(Element);

/// Starts an element.
pub(crate) fn builder(name: &str, ns: &str) -> Builder {
    Builder(Element::bare(name, ns))
}

impl Builder {
    /// Adds an attribute. The name is one of ours; one that XML forbids is left out.
    pub(crate) fn attr(mut self, name: &str, value: &str) -> Self {
        if let Ok(name) = NcName::try_from(name) {
            self.0
                .attrs_mut()
                .insert(Namespace::NONE, name, value.to_owned());
        }
        self
    }

    /// Adds an attribute if it has a value.
    pub(crate) fn maybe_attr(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    pub(crate) fn child(mut self, child: Element) -> Self {
        self.0.append_child(child);
        self
    }

    pub(crate) fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        for child in children {
            self.0.append_child(child);
        }
        self
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        if !text.is_empty() {
            self.0.append_text(text);
        }
        self
    }

    pub(crate) fn build(self) -> Element {
        self.0
    }
}
