//! The arguments of a native application, which a directory gives as one text.

use mesh_model::Text;

/// Splits a text into arguments at white space, much as a shell does. `None` if a quote is not closed.
///
/// White space between two `'` or two `"` belongs to the argument. A backslash makes an ordinary letter
/// of a quote or space that follows it, and is one itself before anything else, as in `C:\data`; between
/// two `'` it always is.
pub(crate) fn split(text: &str) -> Option<Vec<Text>> {
    let mut arguments = Vec::new();
    // `None` between arguments; quotes can make an empty one.
    let mut argument: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => {
                let escapes = |next: &char| match quote {
                    None => next.is_whitespace() || matches!(next, '"' | '\''),
                    Some(_) => *next == '"',
                };
                let letter = letters.next_if(escapes).unwrap_or(letter);
                argument.get_or_insert_default().push(letter);
            }
            (_, Some(open)) if letter == open => quote = None,
            (_, Some(_)) => argument.get_or_insert_default().push(letter),
            ('"' | '\'', None) => {
                quote = Some(letter);
                argument.get_or_insert_default();
            }
            (_, None) if letter.is_whitespace() => arguments.extend(argument.take().map(Text::from)),
            (_, None) => argument.get_or_insert_default().push(letter),
        }
    }
    arguments.extend(argument.map(Text::from));
    quote.is_none().then_some(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_people_expect() {
        for (text, expected) in [
            ("", &[][..]),
            ("  ", &[]),
            ("a  b\tc\n", &["a", "b", "c"]),
            ("--name='a b' \"c d\"", &["--name=a b", "c d"]),
            ("'' \"\"", &["", ""]),
            ("a\\ b", &["a b"]),
            ("\\\"a\\'", &["\"a'"]),
            ("\"a \\\"b\\\" c\" '\\'", &["a \"b\" c", "\\"]),
            ("--dir C:\\data\\new", &["--dir", "C:\\data\\new"]),
            ("\\\\server\\share", &["\\\\server\\share"]),
            ("end\\", &["end\\"]),
            ("é 'ü ö'", &["é", "ü ö"]),
        ] {
            let arguments = split(text).unwrap();
            assert_eq!(arguments.iter().map(|argument| &**argument).collect::<Vec<_>>(), expected, "{text}");
        }
        for open in ["'a", "\"", "a \"b\\\""] {
            assert_eq!(split(open), None, "{open}");
        }
    }
}
