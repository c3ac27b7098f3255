use super::*;
use std::time::{Duration, Instant};

/// Bytes of a hostile page: enough that anything quadratic takes minutes in the unoptimised build of the tests.
const SIZE: usize = 512 * 1024;

fn text(html: &str) -> String {
    let base = Url::parse("https://example.com/a/b?c").expect("a URL");
    let text = render(html, &base, 50_000);
    assert!(!text.cut);
    text.text
}

#[test]
fn a_page_becomes_markdown_without_what_is_not_the_page() {
    let page = r##"<!doctype html><html><head><title> A &amp; B </title><style>p { x }</style>
        <script>if (a < b) document.write("<p>no</p>")</script></head>
        <body><nav><a href="/">Home</a><nav>x</nav></nav><header>Top</header>
        <h1>Head<b>ing</b></h1><p>One   <a href="../c?d=1&amp;e">link
        here</a>, <a href="#x">a jump</a>, <a href="javascript:x()">a script</a>, <a href="/empty"><img src=x></a>two<br>three
        <ul><li>first<li><p>second</p><ol><li>inner</li><li>next</li></ol></ul>
        <blockquote>said<p>more</blockquote>
        <pre>a
  b &lt;c&gt;</pre>
        Use <code>x = 1</code>. <img alt="A cat" src=cat.png>
        <table><tr><th>Name<th>Size</tr><tr><td>x</td><td><p>1</p></td></tr></table>
        <svg><title>no</title><text>no</text></svg><noscript>no</noscript><footer>no</footer>
        <h2></h2><p>end&#8203;ed</body></html>"##;
    let expected = "# A & B\n\nTop\n\n# Heading\n\nOne [link here](https://example.com/c?d=1&e), a jump, a script, \
        two\nthree\n\n- first\n- second\n  1. inner\n  2. next\n\n> said\n\n> more\n\n```\na\n  b <c>\n```\n\nUse `x = \
        1`. [image: A cat]\n\nName | Size\nx | 1\n\nended";
    assert_eq!(text(page), expected);
}

#[test]
fn a_title_that_the_page_says_itself_is_said_once() {
    assert_eq!(text("<title>Same</title><h1>Same</h1>x"), "# Same\n\nx");
    assert_eq!(text("<title>Only</title>"), "# Only");
    assert_eq!(text(""), "");
}

#[test]
fn links_follow_the_base_that_the_page_names() {
    assert_eq!(text("<base href='//other.example/x/'><a href=y>z</a>"), "[z](https://other.example/x/y)");
    assert_eq!(text("<base href=/x/><base href=/w/><a href=y>z</a>"), "[z](https://example.com/x/y)");
    assert_eq!(text(&format!("<a href='/{}'>z</a>", "x".repeat(600))), "z");
    assert_eq!(text("<a href=/1>one<a href=/2>two"), "[one](https://example.com/1)[two](https://example.com/2)");
    assert_eq!(text("<a href=/1><h3>Card</h3><p>about</p></a>"), "[Card about](https://example.com/1)");
}

#[test]
fn a_frame_that_is_never_closed_does_not_swallow_the_page() {
    assert_eq!(text("<nav><p>menu</p><p>the text"), "menu\n\nthe text");
    assert_eq!(text("<p>text</p><footer>foot</footer>"), "text");
}

#[test]
fn characters_that_no_reader_sees_are_left_out() {
    assert_eq!(text("a\u{200b}b\u{e0041}\u{202e}c\u{0}d\u{7}&#x1b;[31m"), "abcd[31m");
    assert_eq!(inline("a <b>b</b>\n&amp; &lt;c&gt;\u{e0041}"), "a b & <c>");
}

#[test]
fn long_pages_are_cut() {
    let base = Url::parse("https://example.com/").expect("a URL");
    let page = render(&"<p>hello</p>".repeat(100), &base, 50);
    assert!(page.cut && page.text.len() < 60, "{page:?}");
    assert!(!render("<p>hello</p>", &base, 50).cut);
}

fn repeated(piece: &str) -> String {
    piece.repeat(SIZE / piece.len())
}

/// Trees of these took other parsers minutes, gigabytes or their stack. The time allowed is a hundred times what is
/// needed, and a hundredth of what anything quadratic would take.
#[test]
fn hostile_pages_take_time_and_memory_in_proportion_to_their_bytes() {
    let numbered = |start: &str, piece: fn(usize) -> String, end: &str| {
        let mut page = start.to_owned();
        (0..).map(piece).find(|piece| {
            page.push_str(piece);
            page.len() > SIZE
        });
        page + end
    };
    let pages = [
        "<div>".repeat(SIZE / 5),
        "<b>".repeat(SIZE / 5),
        repeated("<a href=x>"),
        repeated("<a href=x>y"),
        repeated("<b><p>"),
        repeated("<table>"),
        repeated("<table><tr><td>"),
        repeated("<td>x"),
        repeated("<td>"),
        repeated("<ul><li>x"),
        repeated("<ol><li>"),
        repeated("<blockquote>x"),
        repeated("<blockquote>"),
        repeated("<pre>"),
        repeated("<pre>x</pre>"),
        repeated("<h1>"),
        repeated("<nav>"),
        repeated("<nav></nav>"),
        repeated("<select><option>"),
        repeated("<svg><math>"),
        repeated("<title>"),
        repeated("<script>"),
        repeated("</p>"),
        repeated("<"),
        repeated("<!--"),
        repeated("<![CDATA["),
        repeated("&amp"),
        repeated("&#x10ffff"),
        repeated("<br>"),
        repeated("<hr>"),
        repeated("<base href=aaaaaaaaaaa/>"),
        "x".repeat(SIZE),
        " ".repeat(SIZE),
        format!("<p class='{}'>", "y".repeat(SIZE)),
        format!("<a href='{}'>x</a>", "y".repeat(SIZE)),
        format!("<{}>", "y".repeat(SIZE)),
        numbered("<p ", |n| format!("a{n}=b "), ">x"),
        numbered("", |n| format!("<font a{n}>"), "x"),
        numbered("", |n| format!("<e{n}>"), "x"),
    ];
    let base = Url::parse(&format!("https://example.com/{}", "x/".repeat(2000))).expect("a URL");
    for page in &pages {
        let started = Instant::now();
        let rendered = render(page, &base, 50_000);
        let head: String = page.chars().take(30).collect();
        assert!(started.elapsed() < Duration::from_secs(30), "{head} took {:?}", started.elapsed());
        assert!(rendered.text.chars().count() < 52_000, "{head} gave {}", rendered.text.len());
    }
}
