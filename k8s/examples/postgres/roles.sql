-- Run once, by the image, when the data folder is empty. Nobody but the administrator and `migrate` can change the schema.
\getenv owner OWNER_PASSWORD
\getenv sidecar SIDECAR_PASSWORD
\getenv relay RELAY_PASSWORD
CREATE ROLE shop_owner LOGIN PASSWORD :'owner';
CREATE ROLE shop_cache LOGIN PASSWORD :'sidecar';
CREATE ROLE shop_relay LOGIN PASSWORD :'relay';
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT, CREATE ON DATABASE :"DBNAME" TO shop_owner;
GRANT CONNECT, TEMPORARY ON DATABASE :"DBNAME" TO shop_cache;
GRANT CONNECT ON DATABASE :"DBNAME" TO shop_relay;
