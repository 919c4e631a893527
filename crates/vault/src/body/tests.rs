use super::*;

fn body(text: &str) -> Result<Body, VaultError> {
    Body::parse(SecretBytes::copy_from(text.as_bytes()))
}

#[test]
fn what_is_no_object_of_unique_keys_is_refused() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for text in [
        "[]",
        "1",
        "\"a\"",
        "{",
        "{\"a\":1",
        "{\"a\":1}x",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1,\"\\u0061\":2}",
        "{\"a\":{\"b\":1,\"b\":1}}",
        "{\"a\":[{\"b\":{\"c\":1,\"c\":1}}]}",
        "{\"a\":1e999}",
        "{\"a\":01}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\u{0}\"}",
        &deep,
    ] {
        assert_eq!(body(text).unwrap_err().status(), 400, "{text}");
    }
    assert_eq!(Body::parse(SecretBytes::copy_from(&vec![b' '; BODY_BYTES_MAX + 1])).unwrap_err().status(), 413);
    for text in ["", " ", "null", "{}", "{\"a\":null}", "{\"data\":{\"k\":[1,2.5,true,null,\"x\"]}}"] {
        assert!(body(text).is_ok(), "{text}");
    }
}

#[test]
fn a_field_is_read_as_its_type_or_named() {
    let read = body(
        r#"{"s":"a\n","n":7,"ns":"8","neg":-1,"b":true,"bs":"false","d":90,"ds":"1h","l":["a","b"],"ls":"a, b,",
            "m":{"k":"v"},"ms":"{\"k\":\"v\"}","o":{"x":1},"z":null,"big":99999999999999999999}"#,
    )
    .unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(read.string("s").unwrap().unwrap().as_str(), "a\n");
    assert_eq!(read.string("n").unwrap().unwrap().as_str(), "7");
    assert_eq!((read.int("n").unwrap(), read.int("ns").unwrap(), read.int("z").unwrap()), (Some(7), Some(8), None));
    assert_eq!((read.bool("b").unwrap(), read.bool("bs").unwrap()), (Some(true), Some(false)));
    assert_eq!((read.duration("d").unwrap(), read.duration("ds").unwrap()), (Some(hour / 40), Some(hour)));
    assert_eq!(read.list("l").unwrap(), read.list("ls").unwrap());
    assert_eq!(read.map("m").unwrap(), read.map("ms").unwrap());
    assert_eq!(read.raw("o"), Some(r#"{"x":1}"#));
    assert!(!read.has("z") && !read.has("nothing") && read.has("o"));
    assert_eq!(read.inner("o").unwrap().unwrap().int("x").unwrap(), Some(1));
    for error in [
        read.string("o").unwrap_err(),
        read.int("s").unwrap_err(),
        read.int("big").unwrap_err(),
        read.count("neg", 9).unwrap_err(),
        read.count("ns", 7).unwrap_err(),
        read.bool("n").unwrap_err(),
        read.duration("neg").unwrap_err(),
        read.duration("s").unwrap_err(),
        read.list("o").unwrap_err(),
        read.map("l").unwrap_err(),
        read.map("o").unwrap_err(),
        read.object("l").unwrap_err(),
        read.required("z").unwrap_err(),
    ] {
        assert!(matches!(error, VaultError::InvalidField { .. }), "{error:?}");
        assert_eq!(error.status(), 400);
    }
}
