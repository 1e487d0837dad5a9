//! The descriptions of registers that the stub hands out, in XML.

use std::io;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// The stub leaves the level out of some names.
pub(super) fn full_name(name: &str) -> String {
    match name {
        "VBAR" | "SCTLR" | "CPACR" | "CNTKCTL" | "AMAIR0" => format!("{name}_EL1"),
        _ => name.to_owned(),
    }
}

/// What `pick` makes of every element of this name.
pub(super) fn attributes<T>(
    text: &str,
    name: &[u8],
    pick: impl Fn(&BytesStart<'_>) -> Option<T>,
) -> io::Result<Vec<T>> {
    let mut reader = Reader::from_str(text);
    let mut found = Vec::new();
    loop {
        match reader.read_event() {
            Ok(Event::Empty(element) | Event::Start(element)) => {
                if element.name().as_ref() == name {
                    found.extend(pick(&element));
                }
            }
            Ok(Event::Eof) => return Ok(found),
            Ok(_) => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

pub(super) fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = element.try_get_attribute(name).ok()??;
    String::from_utf8(attribute.value.into_owned()).ok()
}
