"""The bucket for files and results."""

import pulumi
import pulumi_aws as aws

from shared import settings
from shared.json_document import json_document
from shared.outputs import StorageOutputs
from shared.tags import tags

bucket_name = settings.bucket_name("bucketName")
input_prefix, output_prefix = settings.folders("inputPrefix", "outputPrefix")

bucket = aws.s3.Bucket(
    "bucket",
    bucket=bucket_name,
    force_destroy=True,
    tags=tags(),
    # A new name means a new bucket: without this, renaming would delete every file.
    opts=pulumi.ResourceOptions(protect=True),
)

aws.s3.BucketServerSideEncryptionConfiguration(
    "bucket-encryption",
    bucket=bucket.bucket,
    rules=[{"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}],
)

public_access_block = aws.s3.BucketPublicAccessBlock(
    "bucket-public-access-block",
    bucket=bucket.bucket,
    block_public_acls=True,
    block_public_policy=True,
    ignore_public_acls=True,
    restrict_public_buckets=True,
)

aws.s3.BucketPolicy(
    "bucket-policy",
    bucket=bucket.bucket,
    policy=json_document(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "RefusePlainHttp",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": [bucket.arn, pulumi.Output.concat(bucket.arn, "/*")],
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ],
        }
    ),
    # S3 answers 409 if a bucket's policy and public access block are changed at the same time.
    opts=pulumi.ResourceOptions(depends_on=[public_access_block]),
)

StorageOutputs(
    bucket_name=bucket.bucket,
    bucket_arn=bucket.arn,
    input_prefix=pulumi.Output.from_input(input_prefix),
    output_prefix=pulumi.Output.from_input(output_prefix),
).export()
