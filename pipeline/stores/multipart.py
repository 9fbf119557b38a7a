"""Abort unfinished multipart uploads on s3 through boto3; obstore cannot list them."""

from collections.abc import Mapping

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


def abort_uploads(bucket: str, prefix: str, options: Mapping[str, str]) -> int:
    """Abort all unfinished multipart uploads below a prefix; return how many.

    Does nothing if the credentials do not allow it: the bucket then needs a lifecycle rule.

    Args:
        bucket: its name.
        prefix: with a slash at its end; empty for the whole bucket.
        options: of the store; see `pipeline.stores.object_store.OPTIONS`.

    Raises:
        OSError: the server cannot be reached, or fails.
    """
    endpoint = options.get("endpoint_override")
    count = 0
    try:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=options.get("region", "us-east-1" if endpoint else None),
            config=Config(retries={"mode": "standard"}, connect_timeout=5, read_timeout=20),
        )
        pages = client.get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            for upload in page.get("Uploads", []):
                client.abort_multipart_upload(
                    Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
                count += 1
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (401, 403):
            raise OSError(str(error)) from error
    except BotoCoreError as error:
        raise OSError(str(error)) from error
    return count
