//! Server-sent events (WHATWG HTML, 9.2), from bytes as they come.

/// More than any event of ours: a log line, or a function as JSON.
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// "message", unless the server names it.
    pub name: String,
    pub data: String,
    /// By which who comes again says what it got last. Empty: none was given so far.
    pub id: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event has more than {MAX_EVENT_BYTES} bytes")]
pub struct TooLong;

#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_carriage_return: bool,
    begun: bool,
    name: String,
    data: String,
    /// Of this event, or of the last one that had one.
    id: String,
}

impl Parser {
    /// The events that are whole with these bytes.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for &byte in chunk {
            let second_of_pair = std::mem::take(&mut self.after_carriage_return) && byte == b'\n';
            match byte {
                _ if second_of_pair => {}
                b'\n' | b'\r' => {
                    self.after_carriage_return = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.line_ended(&line));
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    fn line_ended(&mut self, line: &[u8]) -> Option<Event> {
        let line = String::from_utf8_lossy(line);
        let mut line = line.as_ref();
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return self.event_ended();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            // A comment has no name before its colon.
            _ => {}
        }
        None
    }

    fn event_ended(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        // Without data it is no event.
        data.pop()?;
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(Event { name, data, id: self.id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.to_owned(), data: data.to_owned(), id: String::new() }
    }

    fn parse(text: &str) -> Vec<Event> {
        Parser::default().push(text.as_bytes()).unwrap()
    }

    #[test]
    fn events_have_a_name_and_their_data() {
        assert_eq!(
            parse("event: status\ndata: building\n\nevent:log\ndata:a\ndata: b\n\ndata: x\n\n"),
            [event("status", "building"), event("log", "a\nb"), event("message", "x")]
        );
    }

    #[test]
    fn an_id_is_that_of_the_last_event_that_had_one() {
        let events = parse("data: a\n\nid: 1-7\ndata: b\n\ndata: c\n\nid\ndata: d\n\n");
        assert_eq!(
            events.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(),
            ["", "1-7", "1-7", ""]
        );
    }

    #[test]
    fn each_line_ending_is_one() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("event: log{end}data: a{end}{end}data: b{end}{end}");
            assert_eq!(parse(&text), [event("log", "a"), event("message", "b")], "{end:?}");
        }
    }

    #[test]
    fn however_the_bytes_are_split_the_events_are_the_same() {
        let text = "\u{feff}: hello\r\nid: 7\r\nevent: log\r\ndata: zwölf ✓\r\ndata:\r\n\r\nevent: ended\rdata: {}\r\r".as_bytes();
        let whole = Parser::default().push(text).unwrap();
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[0].data, "zwölf ✓\n");
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let parts: Vec<Event> =
                text.chunks(size).flat_map(|chunk| parser.push(chunk).unwrap()).collect();
            assert_eq!(parts, whole, "chunks of {size}");
        }
    }

    #[test]
    fn comments_unknown_fields_and_events_without_data_are_nothing() {
        assert_eq!(
            parse(": keep-alive\n\nretry: 5\n\nevent: log\n\ndata: x\n\n"),
            [event("message", "x")]
        );
        assert_eq!(parse("data: never ended\n"), []);
    }

    #[test]
    fn an_event_without_end_is_an_error_and_not_all_memory() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; 1024 * 1024];
        let error = (0..100).find_map(|_| parser.push(&chunk).err());
        assert_eq!(error, Some(TooLong));
    }
}
