"""Merging into XMP of others: what they wrote stays byte for byte."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.labeling.xmp_packet import (
    EMPTY_PACKET,
    NAMESPACE,
    PacketError,
    Tags,
    build_packet,
    merge_tags,
    remove_tags,
)
from tests.helpers.xmp_samples import DIGIKAM, LIGHTROOM, REFUSED, SAMPLES, wrap

RDF, DC = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}", "{http://purl.org/dc/elements/1.1/}"
OURS = f"{{{NAMESPACE}}}"
DAISY = Tags(["daisy <&> Gänseblümchen"], {"probability": "0.9312", "model": "flowers version 3"})
ROSES = Tags(["rose", "red"], {"model": "roses version 1"})

EARLIER_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Convoy">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:convoy="urn:x-convoy:xmp:1.0#">
   <dc:subject><rdf:Bag><rdf:li>daisy</rdf:li></rdf:Bag></dc:subject>
   <convoy:probability>0.9</convoy:probability>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode()  # as Convoy 0.2 wrote it


def parse(packet: bytes) -> ElementTree.Element:
    """Parse with a parser that is not ours."""
    return ElementTree.fromstring(packet.rstrip(b"\0"))


def find_rdf(packet: bytes) -> ElementTree.Element:
    root = parse(packet)
    return root if root.tag == f"{RDF}RDF" else next(root.iter(f"{RDF}RDF"))


def read_keywords(packet: bytes) -> list[str]:
    found = find_rdf(packet).iterfind(f"{RDF}Description/{DC}subject")
    return [li.text or "" for subject in found for li in subject.iter(f"{RDF}li")]


def read_tags(packet: bytes) -> list[str]:
    return [li.text or "" for li in find_rdf(packet).iterfind(f"{RDF}Description/{OURS}tags/{RDF}Bag/{RDF}li")]


def is_subsequence(part: bytes, whole: bytes) -> bool:
    """Whether all bytes of a part are in the whole, in this order."""
    rest = iter(whole)
    return all(byte in rest for byte in part)


@pytest.mark.parametrize("name", SAMPLES)
def test_tags_are_added_and_all_other_bytes_stay(name):
    text, keywords = SAMPLES[name]
    packet = text.encode()
    merged = merge_tags(packet, DAISY)
    assert sorted(read_keywords(merged)) == sorted([*keywords, *DAISY.subjects])
    assert read_tags(merged) == DAISY.subjects
    assert is_subsequence(re.sub(rb"/(?=>)", b"", packet), merged)  # an empty element that is filled is not closed
    assert remove_tags(merged) == packet
    about = {child.get(f"{RDF}about", child.get("about", "")) for child in find_rdf(merged)}
    assert len(about) == 1


@pytest.mark.parametrize("name", SAMPLES)
def test_tagging_again_changes_nothing_and_other_tags_replace_only_ours(name):
    packet = SAMPLES[name][0].encode()
    once = merge_tags(packet, DAISY)
    assert merge_tags(once, DAISY) == once
    assert merge_tags(once, ROSES) == merge_tags(packet, ROSES)
    assert sorted(read_keywords(merge_tags(once, ROSES))) == sorted([*SAMPLES[name][1], "rose", "red"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_merged_with_is_refused_with_the_reason(name):
    packet, reason = REFUSED[name]
    with pytest.raises(PacketError, match=reason):
        merge_tags(packet, DAISY)


def test_a_keyword_of_the_owner_is_neither_added_nor_claimed():
    merged = merge_tags(DIGIKAM.encode(), Tags(["Ann", "daisy"]))
    assert read_keywords(merged) == ["Ann", "daisy"] and read_tags(merged) == ["daisy"]
    assert read_keywords(merge_tags(merged, Tags(["rose"]))) == ["Ann", "rose"]
    alone = merge_tags(DIGIKAM.encode(), Tags(["Ann"], {"model": "m"}))
    assert read_keywords(alone) == ["Ann"] and read_tags(alone) == []
    assert merge_tags(alone, Tags(["Ann"], {"model": "m"})) == alone
    assert remove_tags(alone) == DIGIKAM.encode()


def test_a_packet_of_our_own_and_one_of_an_earlier_convoy_are_replaced_as_a_whole():
    assert remove_tags(build_packet(DAISY)) == EMPTY_PACKET
    assert merge_tags(EARLIER_PACKET, ROSES) == merge_tags(build_packet(DAISY), ROSES) == build_packet(ROSES)


def test_keywords_that_were_added_to_ours_are_kept():
    text = build_packet(Tags(["daisy"], {"model": "m"})).decode()
    edited = text.replace("<dc:subject><rdf:Bag>", "<dc:subject><rdf:Bag><rdf:li>garden</rdf:li>").encode()
    again = merge_tags(edited, Tags(["rose"], {"model": "n"}))
    assert read_keywords(again) == ["garden", "rose"] and read_tags(again) == ["rose"]
    assert [element.text for element in parse(again).iter(f"{OURS}model")] == ["n"]
    assert read_keywords(merge_tags(EARLIER_PACKET.replace(b"<rdf:Bag>", b"<rdf:Bag> "), ROSES)) == [
        "daisy",
        "rose",
        "red",
    ]


@pytest.mark.parametrize("name", ["lightroom", "exiftool", "single_text", "self_closed_bag"])
def test_our_tags_are_found_after_another_program_has_written_the_packet_anew(name):
    for prefix, uri in (("rdf", RDF), ("dc", DC), ("c", OURS)):
        ElementTree.register_namespace(prefix, uri.strip("{}"))
    merged = merge_tags(SAMPLES[name][0].encode(), DAISY)
    rewritten = ElementTree.tostring(parse(merged), encoding="utf-8")
    again = merge_tags(rewritten, ROSES)
    assert sorted(read_keywords(again)) == sorted([*SAMPLES[name][1], "rose", "red"])
    assert read_tags(again) == ["rose", "red"]
    assert [element.text for element in parse(again).iter(f"{OURS}model")] == ["roses version 1"]
    assert not list(parse(again).iter(f"{OURS}probability"))


def test_our_properties_as_attributes_are_found_and_no_text_that_looks_like_them():
    text = wrap(
        f"<rdf:Description rdf:about='' xmlns:convoy='{NAMESPACE}' xmlns:y='urn:y' convoy:model='m' "
        'y:said=\' convoy:model="x" \' convoy:probability="0.5"/>'
    )
    again = merge_tags(text.encode(), ROSES).decode()
    assert " convoy:model='m'" not in again and "0.5" not in again
    assert "y:said=' convoy:model=\"x\" '" in again


def test_a_keyword_that_its_owner_has_added_beside_ours_is_kept():
    merged = merge_tags(DIGIKAM.encode(), Tags(["daisy"])).replace(
        b"<rdf:li>Ann", b"<rdf:li>daisy</rdf:li><rdf:li>Ann"
    )
    assert read_keywords(merged) == ["daisy", "Ann", "daisy"]
    assert read_keywords(merge_tags(merged, Tags(["rose"]))) == ["daisy", "Ann", "rose"]


def test_properties_within_properties_are_removed_as_a_whole_and_nothing_after_them():
    text = wrap(
        f"<rdf:Description rdf:about='' xmlns:convoy='{NAMESPACE}' xmlns:y='urn:y'><convoy:model>"
        "<rdf:Description convoy:probability='0.5' convoy:model='a long text'/></convoy:model>"
        "<y:kept>text</y:kept></rdf:Description>"
    )
    again = remove_tags(text.encode()).decode()
    assert "xmlns:y='urn:y'><y:kept>text</y:kept></rdf:Description>" in again


def test_an_attribute_of_others_under_a_prefix_like_ours_is_kept():
    text = wrap(
        f"<rdf:Description rdf:about='' xmlns:convoy='urn:other' xmlns:c='{NAMESPACE}' c:model='m' convoy:a='b'/>"
        f"<rdf:Description rdf:about='' xmlns:convoy='{NAMESPACE}' convoy:model='m'/>"
    )
    again = remove_tags(text.encode()).decode()
    assert "convoy:a='b'" in again and "model" not in again


def test_our_description_in_a_comment_is_not_ours():
    ours = re.search(r"\n  <rdf:Description.*</rdf:Description>", build_packet(DAISY).decode(), re.DOTALL)
    packet = LIGHTROOM.replace("   <dc:subject>", f"<!--{ours[0]}-->   <dc:subject>").encode()
    merged = merge_tags(packet, ROSES)
    assert remove_tags(merged) == packet and ours[0].encode() in merged


def test_control_characters_become_spaces():
    assert read_keywords(build_packet(Tags(["a\0b\nc"]))) == ["a b c"]


def test_twenty_thousand_elements_take_no_quadratic_time():
    import time

    items = "<rdf:li>x</rdf:li>" * 20_000
    packet = LIGHTROOM.replace("<rdf:Seq>", f"<rdf:Seq>{items}").encode()
    began = time.monotonic()
    assert remove_tags(merge_tags(packet, DAISY)) == packet
    assert time.monotonic() - began < 15


texts = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), min_size=1, max_size=8
)
tags = st.builds(Tags, st.lists(texts, max_size=3), st.fixed_dictionaries({"model": texts}))


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(SAMPLES)), steps=st.lists(tags, min_size=1, max_size=4))
def test_any_sequence_of_tags_leaves_the_last_ones_and_what_others_wrote(name, steps):
    packet = SAMPLES[name][0].encode()
    merged = packet
    for step in steps:
        merged = merge_tags(merged, step)
    assert merged == merge_tags(packet, steps[-1])
    assert remove_tags(merged) == packet


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(SAMPLES)), data=st.data())
def test_a_damaged_packet_is_refused_or_merged_with_and_nothing_else(name, data):
    packet = bytearray(SAMPLES[name][0].encode())
    for _ in range(data.draw(st.integers(1, 3))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.sampled_from(b'<>/"&;: a\0\xff'))
    try:
        merged = merge_tags(bytes(packet), DAISY)
    except PacketError:
        return
    assert remove_tags(merged) == bytes(packet)
