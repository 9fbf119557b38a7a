"""Uploads to S3 that never ended: what boto3 can do about them, and pyarrow cannot."""

from collections.abc import Mapping

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


def abort_uploads(bucket: str, prefix: str, options: Mapping[str, str]) -> int:
    """Abort all unfinished multipart uploads below a prefix; returns how many.

    What the credentials do not allow is left alone.

    Args:
        bucket: its name.
        prefix: with a slash at its end; empty for the whole bucket.
        options: of the store, see `pipeline.storage.object_store.OPTIONS`.

    Raises:
        OSError: the server cannot be reached, or fails.
    """
    endpoint = options.get("endpoint_override")
    count = 0
    try:
        client = boto3.client(
            "s3",
            endpoint_url=f"{options.get('scheme', 'https')}://{endpoint}" if endpoint else None,
            region_name=options.get("region", "us-east-1" if endpoint else None),
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20),
        )
        pages = client.get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            for upload in page.get("Uploads", []):
                client.abort_multipart_upload(
                    Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
                count += 1
    except ClientError as error:
        # who may write need not be allowed to list uploads: then a rule of the bucket sweeps
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (401, 403):
            return count
        raise OSError(str(error)) from error
    except BotoCoreError as error:
        raise OSError(str(error)) from error
    return count
