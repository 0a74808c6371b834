-- Nexmark q18, last bid: the last bid of each bidder on each auction. It is an aggregate, since ROW_NUMBER keeps the
-- earliest row of a key only; each further bid of the pair gives a row anew.

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, date_time TIMESTAMP, extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE last_bids STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW q18 OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO last_bids
SELECT auction, bidder, max_by(price, date_time) AS price, max_by(channel, date_time) AS channel,
       max_by(url, date_time) AS url, max(date_time) AS date_time, max_by(extra, date_time) AS extra
FROM STREAM bid
GROUP BY bidder, auction;
