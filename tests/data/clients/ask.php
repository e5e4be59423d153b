<?php
// PHP's SoapClient, by the WSDL alone: rows of each course and the list of content, as JSON.
[$endpoint, $token] = array_slice($argv, 1, 2);
$client = new SoapClient("$endpoint?wsdl", [
    "cache_wsdl" => WSDL_CACHE_NONE, "features" => SOAP_SINGLE_ELEMENT_ARRAYS,
]);
$credentials = ["token" => $token];
$rows = [];
foreach (array_slice($argv, 3) as $id) {
    $answer = $client->GetContentItemFinalStatuses(["credentials" => $credentials, "contentItemId" => $id]);
    $rows[$id] = [];
    foreach ($answer->statuses->status ?? [] as $one) {
        $rows[$id][] = [$one->userId, $one->status, $one->progress];
    }
}
$content = [];
foreach ($client->GetContent(["credentials" => $credentials])->contentItem ?? [] as $one) {
    $content[] = [$one->contentItemId, $one->title, $one->type];
}
echo json_encode(["rows" => (object) $rows, "content" => $content]);
