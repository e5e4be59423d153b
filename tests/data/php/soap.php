<?php
// PHP's own SoapServer behind `php -S`, with the WSDL in $WSDL; the course's id says what goes wrong.
ini_set("soap.wsdl_cache_enabled", "0");

class Lms {
    public function GetContentItemFinalStatuses($request) {
        switch ($request->contentItemId) {
            case "memory":
                ini_set("memory_limit", "8M");
                $held = [];
                while (true) { $held[] = str_repeat("x", 100000); }
            case "time":
                set_time_limit(1);
                while (true) { }
            case "token": throw new SoapFault("Server", "Invalid token");
            case "throttle": throw new SoapFault("Server", "Too many requests");
            case "unknown": throw new SoapFault("Server", "Unknown\n  content item");
            case "client": throw new SoapFault("Client", "No such thing");
            case "null": return null;
            case "warning": echo "Warning: x in a.php\n"; break;
            case "database": throw new SoapFault("Server", "SQLSTATE[HY000] [2002] Connection refused");
            case "exception": throw new Exception("not caught");
            case "exit": exit;
            case "empty": return ["statuses" => []];
        }
        return ["statuses" => ["status" => [
            ["userId" => "u1", "status" => "Passed", "progress" => 100],
            ["userId" => "u2", "status" => "In progress", "progress" => 45.22],
        ]]];
    }
}

$server = new SoapServer(getenv("WSDL"));
$server->setClass("Lms");
$server->handle();
