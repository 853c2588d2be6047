"""Variants of kernels: what a name makes of a file."""

from bitgraph.backends.vulkan.variants import base_of, variant, with_members

FILE = """\
#version 460
// Bindings:
//   0 read  x f32[ROWS]
#pragma each
//   n write y@ f32[SIZE@]
#ifdef MORE
//   n read  z@ f32[ROWS]
#else
// nothing more
#endif
#pragma end
layout(constant_id = 0) const uint ROWS = 1;
#ifdef MORE
layout(constant_id = n) const float FACTOR = 1;
#endif
#pragma each
layout(constant_id = n) const uint SIZE@ = 1;
#pragma end
"""


def test_one_member_without_options() -> None:
    assert variant(FILE, "k") == (
        "#version 460\n"
        "#define MEMBERS 1\n"
        "#define AT_y0 1\n"
        "// Bindings:\n"
        "//   0 read  x f32[ROWS]\n"
        "//   1 write y0 f32[SIZE0]\n"
        "// nothing more\n"
        "layout(constant_id = 0) const uint ROWS = 1;\n"
        "layout(constant_id = 1) const uint SIZE0 = 1;\n"
    )


def test_members_and_options() -> None:
    assert variant(FILE, "k+more+2") == (
        "#version 460\n"
        "#define MORE\n"
        "#define MEMBERS 2\n"
        "#define AT_y0 1\n"
        "#define AT_z0 2\n"
        "#define AT_y1 3\n"
        "#define AT_z1 4\n"
        "// Bindings:\n"
        "//   0 read  x f32[ROWS]\n"
        "//   1 write y0 f32[SIZE0]\n"
        "//   2 read  z0 f32[ROWS]\n"
        "//   3 write y1 f32[SIZE1]\n"
        "//   4 read  z1 f32[ROWS]\n"
        "layout(constant_id = 0) const uint ROWS = 1;\n"
        "layout(constant_id = 1) const float FACTOR = 1;\n"
        "layout(constant_id = 2) const uint SIZE0 = 1;\n"
        "layout(constant_id = 3) const uint SIZE1 = 1;\n"
    )


def test_a_file_without_variants_is_its_own_text() -> None:
    plain = FILE.splitlines()[0] + "\nvoid main() {}"
    assert variant(plain, "k") == plain


def test_names() -> None:
    assert base_of("k+more+2") == base_of("k") == "k"
    assert with_members("k+more", 2) == "k+more+2"
    assert with_members("k+more", 1) == "k+more"


def test_an_option_with_a_number_of_its_own() -> None:
    text = """\
#version 460
#pragma each more
//   n read  z@ f32[ROWS]
#pragma end
#ifdef MORE
more
#endif
#pragma each
member @
#pragma end
"""
    assert variant(text, "k+more2+3").splitlines()[1:] == [
        "#define MORE",
        "#define MEMBERS 3",
        "#define AT_z0 0",
        "#define AT_z1 1",
        "//   0 read  z0 f32[ROWS]",
        "//   1 read  z1 f32[ROWS]",
        "more",
        *(f"member {k}" for k in range(3)),
    ]
    assert variant(text, "k").splitlines()[1:] == ["#define MEMBERS 1", "member 0"]
