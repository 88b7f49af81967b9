//! Reads syslog as RFC 5424 and RFC 5425 define it, and nothing beyond that.

/// A message.
pub(crate) struct Message {
    pub facility: u32,
    pub severity: u32,
    pub timestamp: String,
    pub hostname: String,
    pub app_name: String,
    pub procid: String,
    pub msgid: String,
    /// SD-ID, then names and values.
    elements: Vec<(String, Vec<(String, String)>)>,
    pub text: Vec<u8>,
}

impl Message {
    pub fn parameter(&self, id: &str, name: &str) -> Option<&str> {
        let (_, parameters) = self.elements.iter().find(|(element, _)| element == id)?;
        parameters.iter().find(|(parameter, _)| parameter == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.text).unwrap()
    }
}

/// Whole frames of a stream: `MSG-LEN SP SYSLOG-MSG`, MSG-LEN without a zero in front.
pub(crate) fn frames(mut stream: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut found = Vec::new();
    while !stream.is_empty() {
        let (message, rest) = first_frame(stream)?.ok_or("the last frame is not whole")?;
        found.push(message);
        stream = rest;
    }
    Ok(found)
}

type First<'s> = Option<(&'s [u8], &'s [u8])>;

/// The first frame and what is behind it; `None` if it is not whole yet.
pub(crate) fn first_frame(stream: &[u8]) -> Result<First<'_>, String> {
    let Some(space) = stream.iter().position(|byte| *byte == b' ') else {
        let digits = stream.iter().all(u8::is_ascii_digit) && stream.len() < 10;
        return if digits { Ok(None) } else { Err("no length".to_owned()) };
    };
    let digits = &stream[..space];
    if digits.first().is_none_or(|first| *first == b'0') {
        return Err("a length begins with 1 to 9".to_owned());
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(format!("not a length: {:?}", String::from_utf8_lossy(digits)));
    }
    let length: usize = std::str::from_utf8(digits).unwrap().parse().map_err(|_| "not a length")?;
    let rest = &stream[space + 1..];
    Ok((rest.len() >= length).then(|| rest.split_at(length)))
}

/// One message.
pub(crate) fn message(bytes: &[u8]) -> Result<Message, String> {
    let mut reader = Reader { rest: bytes };
    reader.expect(b'<')?;
    let priority: u32 = reader.until(b'>', 3)?.parse().map_err(|_| "PRI is no number")?;
    if priority > 191 {
        return Err("PRI is above 191".to_owned());
    }
    if reader.until(b' ', 2)? != "1" {
        return Err("VERSION is not 1".to_owned());
    }
    let timestamp = reader.until(b' ', 32)?;
    if timestamp != "-" {
        check_time(&timestamp)?;
    }
    let mut field = |at_most| reader.until(b' ', at_most);
    let (hostname, app_name, procid, msgid) = (field(255)?, field(48)?, field(128)?, field(32)?);
    let elements = structured_data(&mut reader)?;
    let text = match reader.rest {
        [] => Vec::new(),
        [b' ', text @ ..] => text.to_vec(),
        _ => return Err("no space before MSG".to_owned()),
    };
    // MSG-UTF8 begins with a byte order mark; without one it is MSG-ANY, of which only ASCII is the same in each encoding.
    let marked = text.starts_with(&[0xef, 0xbb, 0xbf]);
    if !text.is_ascii() && !marked {
        return Err("MSG is beyond ASCII and has no byte order mark".to_owned());
    }
    let (facility, severity) = (priority / 8, priority % 8);
    Ok(Message { facility, severity, timestamp, hostname, app_name, procid, msgid, elements, text })
}

struct Reader<'b> {
    rest: &'b [u8],
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Result<u8, String> {
        let (first, rest) = self.rest.split_first().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(*first)
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        let found = self.next()?;
        if found == byte {
            Ok(())
        } else {
            Err(format!("{:?} where {:?} belongs", char::from(found), char::from(byte)))
        }
    }

    /// PRINTUSASCII up to `end`, which is taken as well.
    fn until(&mut self, end: u8, at_most: usize) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.next()? {
                byte if byte == end => break,
                byte @ 33..=126 => text.push(char::from(byte)),
                byte => return Err(format!("the byte {byte} in a field of the header")),
            }
        }
        if text.is_empty() || text.len() > at_most {
            return Err(format!("a field of {} characters", text.len()));
        }
        Ok(text)
    }
}

type Elements = Vec<(String, Vec<(String, String)>)>;

fn structured_data(reader: &mut Reader<'_>) -> Result<Elements, String> {
    let mut elements = Vec::new();
    if reader.peek() == Some(b'-') {
        reader.next()?;
        return Ok(elements);
    }
    while reader.peek() == Some(b'[') {
        reader.next()?;
        let (id, mut end) = name(reader)?;
        let mut parameters = Vec::new();
        while end == b' ' {
            let (parameter, equals) = name(reader)?;
            if equals != b'=' {
                return Err(format!("no value for {parameter}"));
            }
            reader.expect(b'"')?;
            parameters.push((parameter, value(reader)?));
            end = reader.next()?;
        }
        if end != b']' {
            return Err("an element that does not end".to_owned());
        }
        elements.push((id, parameters));
    }
    if elements.is_empty() { Err("no structured data".to_owned()) } else { Ok(elements) }
}

/// SD-NAME, and the character behind it.
fn name(reader: &mut Reader<'_>) -> Result<(String, u8), String> {
    let mut name = String::new();
    loop {
        match reader.next()? {
            end @ (b'=' | b' ' | b']' | b'"') if (1..=32).contains(&name.len()) => return Ok((name, end)),
            byte @ 33..=126 => name.push(char::from(byte)),
            byte => return Err(format!("the byte {byte} in a name")),
        }
    }
}

fn value(reader: &mut Reader<'_>) -> Result<String, String> {
    let mut value = Vec::new();
    loop {
        match reader.next()? {
            b'"' => return String::from_utf8(value).map_err(|_| "a value that is not UTF-8".to_owned()),
            b'\\' => match reader.next()? {
                escaped @ (b'"' | b'\\' | b']') => value.push(escaped),
                other => value.extend([b'\\', other]),
            },
            b']' => return Err("a bare ] in a value".to_owned()),
            byte => value.push(byte),
        }
    }
}

/// RFC 3339 with at most six digits of a second, as RFC 5424 narrows it.
fn check_time(text: &str) -> Result<(), String> {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let known = ["0000-00-00T00:00:00Z", "0000-00-00T00:00:00.000Z", "0000-00-00T00:00:00.000000Z"];
    if known.contains(&shape.as_str()) { Ok(()) } else { Err(format!("TIMESTAMP is {text}")) }
}
