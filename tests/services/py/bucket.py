# What tests do to a bucket beyond the harness: versions, whether objects are still the same, and what stands beside their
# bytes. Follows store.py.
import base64
import io

import pyarrow.parquet


def keep_versions(store, bucket):
    connect(store).put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def versions(store, bucket):
    """How many versions and delete markers each key has had."""
    found = {}
    for page in connect(store).get_paginator("list_object_versions").paginate(Bucket=bucket):
        for item in page.get("Versions", []) + page.get("DeleteMarkers", []):
            found[item["Key"]] = found.get(item["Key"], 0) + 1
    return found


def etags(store, bucket):
    """The ETag and time of change of each object."""
    found = {}
    for page in connect(store).get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            found[item["Key"]] = f"{item['ETag']} {item['LastModified'].isoformat()}"
    return found


def customer(key):
    """What a request about an object that is encrypted with a customer's key carries."""
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64decode(key)} if key else {}


def tags(store, bucket, key):
    return {tag["Key"]: tag["Value"] for tag in connect(store).get_object_tagging(Bucket=bucket, Key=key)["TagSet"]}


def grants(store, bucket, key):
    """Who may do what, as type and permission."""
    found = connect(store).get_object_acl(Bucket=bucket, Key=key)["Grants"]
    return sorted(f"{grant['Grantee'].get('URI', grant['Grantee']['Type'])} {grant['Permission']}" for grant in found)


def encryption(store, bucket, key, customer_key):
    head = connect(store).head_object(Bucket=bucket, Key=key, **customer(customer_key))
    names = ["ServerSideEncryption", "SSEKMSKeyId", "SSECustomerAlgorithm"]
    return [head.get(name) for name in names]


def encrypted_ids(store, bucket, customer_key):
    """The ids in all Parquet objects, which are encrypted with this key, in order."""
    client = connect(store)
    found = []
    for key, _ in keys_and_sizes(client, bucket, ""):
        if key.endswith(".parquet"):
            body = client.get_object(Bucket=bucket, Key=key, **customer(customer_key))["Body"].read()
            found += pyarrow.parquet.read_table(io.BytesIO(body)).column("id").to_pylist()
    return sorted(found)


def assume_role(store, policy):
    """Credentials that may do what the policy says and no more."""
    client = boto3.client(
        "sts",
        endpoint_url=store["endpoint"],
        aws_access_key_id=store["access_key"],
        aws_secret_access_key=store["secret_key"],
        region_name=store["region"],
    )
    role = "arn:aws:iam::000000000000:role/writer"
    lent = client.assume_role(RoleArn=role, RoleSessionName="test", Policy=policy)["Credentials"]
    return [lent["AccessKeyId"], lent["SecretAccessKey"], lent["SessionToken"]]


def create_kms_key(store):
    client = boto3.client(
        "kms",
        endpoint_url=store["endpoint"],
        aws_access_key_id=store["access_key"],
        aws_secret_access_key=store["secret_key"],
        region_name=store["region"],
    )
    return client.create_key()["KeyMetadata"]["Arn"]
