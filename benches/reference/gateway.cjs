// Starts the reference GW3 gateway on the port given as the only argument.
const gateway = require("@glue42/gateway-ws");

gateway.configure_logging({ level: "error" });
gateway
  .create({ port: Number(process.argv[2]) })
  .start()
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
