<?php
header('Content-Type: text/plain');
echo 'script ', $_SERVER['SCRIPT_NAME'], "\n", 'query ', $_SERVER['QUERY_STRING'] ?? '', "\n";
