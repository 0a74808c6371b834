-- Text lines and JSON inside them: the line is the column `value`; get_json_object takes a field out.

CREATE UNBOUNDED EXTERNAL TABLE lines (value STRING)
STORED AS TEXT LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW json_lines OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT get_json_object(value, '$.tailnum') AS tailnum, get_json_object(value, '$.dest') AS dest
FROM STREAM lines
WHERE get_json_object(value, '$.carrier') = 'HA';
