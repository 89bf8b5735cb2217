"""XMP packets as other programs write them, and odd forms that the specification allows."""

from __future__ import annotations

RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'


def wrap(inside: str, rdf: str = "rdf") -> str:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n <{rdf}:RDF xmlns:{rdf}="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        f"{inside}\n </{rdf}:RDF>\n</x:xmpmeta>"
    )


def with_subject(subject: str) -> str:
    return wrap(f'  <rdf:Description rdf:about="" {DC}>\n   {subject}\n  </rdf:Description>')


LIGHTROOM = (
    """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0-c000 1.000000, 0000/00/00-00:00:00        ">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
    xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
   xmp:Rating="3"
   xmp:ModifyDate="2024-05-01T10:00:00+02:00"
   crs:Exposure2012="+0.35">
   <dc:subject>
    <rdf:Bag>
     <rdf:li>M\u00fcnchen</rdf:li>
     <rdf:li>garden &amp; flowers</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>Places|Germany|M\u00fcnchen</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <xmpMM:History>
    <rdf:Seq>
     <rdf:li
      stEvt:action="saved"
      stEvt:instanceID="xmp.iid:1"/>
    </rdf:Seq>
   </xmpMM:History>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
    + "\n".join([" " * 99] * 20)
    + '\n<?xpacket end="w"?>'
)

DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:exif="http://ns.adobe.com/exif/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/"
   exif:DateTimeOriginal="2023:08:12 11:12:13.000"
   xmp:Rating="1"
   darktable:xmp_version="5"
   darktable:auto_presets_applied="1">
   <darktable:history>
    <rdf:Seq>
     <rdf:li darktable:num="0" darktable:operation="exposure" darktable:enabled="1" darktable:params="gz02eJx"/>
    </rdf:Seq>
   </darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""

DIGIKAM = """<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='XMP Core 4.4.0-Exiv2'>
<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
 <rdf:Description rdf:about='' xmlns:digiKam='http://www.digikam.org/ns/1.0/' xmlns:dc='http://purl.org/dc/elements/1.1/'
  digiKam:ImageUniqueID='0123'>
  <digiKam:TagsList><rdf:Seq><rdf:li>People/Ann</rdf:li></rdf:Seq></digiKam:TagsList>
  <dc:subject><rdf:Bag><rdf:li>Ann</rdf:li></rdf:Bag></dc:subject>
 </rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end='w'?>"""

APPLE_PHOTOS = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 6.0.0">
   <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
      <rdf:Description rdf:about=""
            xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
            xmlns:dc="http://purl.org/dc/elements/1.1/">
         <photoshop:DateCreated>2024-01-02T03:04:05Z</photoshop:DateCreated>
         <dc:subject>
            <rdf:Seq>
               <rdf:li>beach</rdf:li>
            </rdf:Seq>
         </dc:subject>
      </rdf:Description>
   </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""

EXIFTOOL = """<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='Image::ExifTool 12.57'>
<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>

 <rdf:Description rdf:about='uuid:faf5bdd5-ba3d-11da-ad31-d33d75182f1b'
  xmlns:dc='http://purl.org/dc/elements/1.1/'>
  <dc:description>
   <rdf:Alt>
    <rdf:li xml:lang='x-default'>a dc:subject of talk</rdf:li>
   </rdf:Alt>
  </dc:description>
 </rdf:Description>

 <rdf:Description rdf:about='uuid:faf5bdd5-ba3d-11da-ad31-d33d75182f1b'
  xmlns:xmp='http://ns.adobe.com/xap/1.0/'>
  <xmp:Rating>4</xmp:Rating>
 </rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end='w'?>"""

# name -> (packet, keywords that it has)
SAMPLES: dict[str, tuple[str, list[str]]] = {
    "lightroom": (LIGHTROOM, ["M\u00fcnchen", "garden & flowers"]),
    "darktable": (DARKTABLE, []),
    "digikam": (DIGIKAM, ["Ann"]),
    "apple_photos": (APPLE_PHOTOS, ["beach"]),
    "exiftool": (EXIFTOOL, []),
    "crlf": (LIGHTROOM.replace("\n", "\r\n"), ["M\u00fcnchen", "garden & flowers"]),
    "byte_order_mark": ("\ufeff" + DARKTABLE, []),
    "no_wrapper": (with_subject("<dc:subject><rdf:Bag><rdf:li>a</rdf:li></rdf:Bag></dc:subject>"), ["a"]),
    "rdf_alone": (f'<rdf:RDF {RDF}><rdf:Description rdf:about=""/></rdf:RDF>', []),
    "no_description": (wrap(""), []),
    "self_closed": (wrap('<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"/>'), []),
    "other_prefixes": (
        wrap(
            '<r:Description r:about="" xmlns:d="http://purl.org/dc/elements/1.1/">'
            "<d:subject><r:Bag><r:li>a</r:li></r:Bag></d:subject></r:Description>",
            "r",
        ),
        ["a"],
    ),
    "default_namespace": (
        '<RDF xmlns="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><Description>'
        f'<dc:subject {DC}><Bag><li>a</li></Bag></dc:subject></Description></RDF>',
        ["a"],
    ),
    "about_without_namespace": (wrap(f'<rdf:Description about="x &quot;y&quot;" {DC}/>'), []),
    "empty_bag": (with_subject("<dc:subject><rdf:Bag></rdf:Bag></dc:subject>"), []),
    "blank_bag": (with_subject("<dc:subject>\r\n  <rdf:Bag>\n  </rdf:Bag> </dc:subject>"), []),
    "self_closed_bag": (with_subject("<dc:subject><rdf:Bag /></dc:subject>"), []),
    "self_closed_subject": (with_subject("<dc:subject/>"), []),
    "empty_subject": (with_subject("<dc:subject> </dc:subject>"), []),
    "single_text": (with_subject("<dc:subject>rose &lt; &#228;</dc:subject>"), ["rose < \u00e4"]),
    "comment_and_cdata": (
        with_subject(
            "<!-- <dc:subject><rdf:Bag></rdf:Bag></dc:subject> </rdf:RDF> -->"
            "<dc:subject><rdf:Bag><!-- > --><rdf:li><![CDATA[a > </rdf:li> b]]></rdf:li></rdf:Bag></dc:subject>"
            "<dc:title><![CDATA[</rdf:RDF>]]></dc:title>"
        ),
        ["a > </rdf:li> b"],
    ),
    "empty_item": (with_subject("<dc:subject><rdf:Bag><rdf:li/></rdf:Bag></dc:subject>"), [""]),
    "two_subjects": (
        wrap(
            f'<rdf:Description rdf:about="" {DC}><dc:subject><rdf:Bag><rdf:li>a</rdf:li></rdf:Bag></dc:subject>'
            f'</rdf:Description><rdf:Description rdf:about="" {DC}><dc:subject><rdf:Bag>'
            "<rdf:li>b</rdf:li></rdf:Bag></dc:subject></rdf:Description>"
        ),
        ["a", "b"],
    ),
    "subject_of_a_part": (
        wrap(
            f'<rdf:Description rdf:about="" {DC} xmlns:y="urn:y"><y:part rdf:parseType="Resource">'
            "<dc:subject><rdf:Bag><rdf:li>of the part</rdf:li></rdf:Bag></dc:subject></y:part></rdf:Description>"
        ),
        [],
    ),
    "angle_in_attribute": (
        wrap(f"<rdf:Description rdf:about='' {DC} xmlns:y='urn:y' y:a='1 > 0 \" convoy:model=\"x\" '/>"), [],
    ),
    "trailing_zeros": (wrap('<rdf:Description rdf:about=""/>') + "\0\0\0", []),
}  # fmt: skip

# name -> (bytes, the reason why nothing is added)
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "damaged XMP"),
    "text": (b"not XML", "damaged XMP"),
    "cut": (LIGHTROOM.encode()[:900], "damaged XMP"),
    "latin_1": (wrap('<rdf:Description rdf:about="\u00e4"/>').encode("latin-1"), "damaged XMP"),
    "declared_latin_1": (
        b'<?xml version="1.0" encoding="ISO-8859-1"?>' + wrap('<rdf:Description rdf:about=""/>').encode(),
        "XMP that is not UTF-8",
    ),
    "utf_16": (LIGHTROOM.encode("utf-16"), "XMP that is not UTF-8"),
    "doctype": (
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
        + with_subject("<dc:subject><rdf:Bag><rdf:li>&b;</rdf:li></rdf:Bag></dc:subject>").encode(),
        "XMP with a DOCTYPE",
    ),
    "no_rdf": (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>', "form that tags cannot be added to"),
    "rdf_twice": (f"<a><rdf:RDF {RDF}> </rdf:RDF><rdf:RDF {RDF}> </rdf:RDF></a>".encode(), "form that tags"),
    "rdf_self_closed": (f"<rdf:RDF {RDF}/>".encode(), "form that tags"),
    "subject_attribute": (
        wrap(f'<rdf:Description rdf:about="" {DC} dc:subject="rose"/>').encode(),
        "dc:subject as an attribute",
    ),
    "subject_resource": (with_subject('<dc:subject rdf:resource="urn:rose"/>').encode(), "form that tags"),
    "subject_structure": (with_subject("<dc:subject><rdf:Description/></dc:subject>").encode(), "form that tags"),
}  # fmt: skip
