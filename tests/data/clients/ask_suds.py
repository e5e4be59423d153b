"""suds, by the WSDL alone: rows of each course and the list of content, as JSON."""

import json
import sys

from suds.client import Client

endpoint, token, *ids = sys.argv[1:]
client = Client(f"{endpoint}?wsdl", cache=None, timeout=10)
credentials = {"token": token}
rows = {}
for course_id in ids:
    answer = client.service.GetContentItemFinalStatuses(credentials, course_id)
    rows[course_id] = [
        (one.userId, one.status, one.progress) for one in getattr(answer, "status", [])
    ]
answer = client.service.GetContent(credentials)
content = [(one.contentItemId, one.title, one.type) for one in answer or []]
print(json.dumps({"rows": rows, "content": content}))
