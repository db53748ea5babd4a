"""S3: keys that XML can't contain as they are, and requests that ministack takes for others.

In ministack:

- ListObjectVersions ignores `encoding-type=url`, without which XML can't contain a control character. Terraform's
  provider, which empties a bucket with this listing, reads the `+` in a key as a space, deletes the wrong key, and
  repeats that endlessly.
- XML contains control characters as they are, so that no parser reads it, or reads a carriage return as a newline.
- GetBucketRequestPayment, and subresources that ministack doesn't have, are answered with a listing.
"""

import re
from http import HTTPStatus
from typing import Any, Final
from xml.sax.saxutils import unescape

from ministack.services import s3

from xfarm.emulator.patches import patch

_xml_body = s3._xml_body

_CHARACTERS: Final = {f"&#x{code:x};": chr(code) for code in range(0x20)}
"""The references to control characters in XML, and these characters."""


@patch(s3, "_xml_body")
def xml_body(root: Any) -> bytes:  # noqa: ANN401 - ministack's elements
    """Return an XML document in which control characters are character references.

    S3 writes them like this (basho/riak_cs #1255). XML 1.0 allows no reference to most of them, so a parser still
    refuses these.
    """
    references = str.maketrans({code: name for name, code in _CHARACTERS.items() if code not in "\t\n"})
    return _xml_body(root).decode().translate(references).encode()


_list_object_versions = s3._list_object_versions


@patch(s3, "_list_object_versions")
def list_object_versions(bucket: str, query: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Answer ListObjectVersions, with encoded keys if requested, as in ministack's other listings."""
    status, headers, body = _list_object_versions(bucket, query)
    if s3._qp(query, "encoding-type") != "url" or status != HTTPStatus.OK:
        return status, headers, body
    # An XML parser would reject keys with characters that XML can't contain.
    encoded = re.sub(
        r"(?<=<)(Key|Prefix|Delimiter|KeyMarker|NextKeyMarker)>([^<]+)",
        lambda match: f"{match[1]}>{s3._url_encode(unescape(match[2], _CHARACTERS))}",
        body.decode(),
    )
    end = "</ListVersionsResult>"
    return status, headers, encoded.replace(end, f"<EncodingType>url</EncodingType>{end}").encode()


_list_objects_v1 = s3._list_objects_v1

_LISTING: Final = {"delimiter", "encoding-type", "marker", "max-keys", "prefix"}
"""The parameters of ListObjects (Amazon S3 API Reference); others start with `x-`, in upper or lower case."""


@patch(s3, "_list_objects_v1")
def list_objects_v1(bucket: str, query: dict[str, Any]) -> Any:  # noqa: ANN401 - ministack's response
    """Answer ListObjects, or GetBucketRequestPayment, or refuse another subresource of a bucket."""
    if "requestPayment" in query:
        return s3._get_bucket_request_payment(bucket)
    if unknown := [name for name in query if name not in _LISTING and not name.lower().startswith("x-")]:
        return s3._error("NotImplemented", f"The emulator has no subresource '{unknown[0]}'.", 501, f"/{bucket}")
    return _list_objects_v1(bucket, query)
